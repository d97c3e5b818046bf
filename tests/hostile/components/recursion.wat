;; A read calls itself without end. A flush does so, too, and asks the host for something in each
;; step, so that the host may be called when there is hardly any stack left.

;; begin imports
(import "wasi:random/random@0.2.0" (instance $random
  (export "get-random-u64" (func (result u64)))))
;; end imports

;; begin core-imports
(import "random" "u64" (func $random-u64 (result i64)))
;; end core-imports

;; begin lowered
(core func $random-u64 (canon lower (func $random "get-random-u64")))
;; end lowered

;; begin with
(with "random" (instance (export "u64" (func $random-u64))))
;; end with

;; begin pass
(with "wasi:random/random@0.2.0" (instance $random))
;; end pass

;; begin fields
(func $deeper (param $depth i32) (result i32)
  (i32.add (i32.const 1) (call $deeper (i32.add (local.get $depth) (i32.const 1)))))
(func $deeper-with-calls (param $depth i32) (result i64)
  (i64.add (call $random-u64) (call $deeper-with-calls (i32.add (local.get $depth) (i32.const 1)))))
;; end fields

;; begin read
(call $deeper (i32.const 0))
;; end read

;; begin flush
(drop (call $deeper-with-calls (i32.const 0)))
(call $done)
;; end flush
