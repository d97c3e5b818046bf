;; A read at `offset` waits for as many nanoseconds.

;; begin imports
(import "wasi:io/poll@0.2.0" (instance $poll
  (export "pollable" (type $p (sub resource)))
  (export "[method]pollable.block" (func (param "self" (borrow $p))))))
(alias export $poll "pollable" (type $pollable))
(import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
  (alias outer 1 $pollable (type $o)) (export "pollable" (type $p (eq $o)))
  (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
;; end imports

;; begin core-imports
(import "wasi" "block" (func $block (param i32)))
(import "wasi" "drop" (func $drop (param i32)))
(import "wasi" "subscribe-duration" (func $subscribe-duration (param i64) (result i32)))
;; end core-imports

;; begin lowered
(core func $block (canon lower (func $poll "[method]pollable.block")))
(core func $drop (canon resource.drop $pollable))
(core func $subscribe-duration (canon lower (func $clock "subscribe-duration")))
;; end lowered

;; begin with
(with "wasi" (instance (export "block" (func $block)) (export "drop" (func $drop))
  (export "subscribe-duration" (func $subscribe-duration))))
;; end with

;; begin pass
(with "wasi:io/poll@0.2.0" (instance $poll))
(with "wasi:clocks/monotonic-clock@0.2.0" (instance $clock))
;; end pass

;; begin read
(local $timer i32)
(local.set $timer (call $subscribe-duration (local.get $offset)))
(call $block (local.get $timer))
(call $drop (local.get $timer))
(call $hole (local.get $length))
;; end read
