;; Each instance opens a disk of another size.

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

;; begin disk
(global $size (mut i64) (i64.const 0))
(global $capabilities i32 (i32.const 1499))
(global $stripe i64 (i64.const 0))
;; end disk

;; begin start
(global.set $size
  (i64.or (i64.shr_u (call $random-u64) (i64.const 2)) (i64.const 0x100000)))
;; end start

;; begin read
(local $at i64)
(loop $step
  (local.set $at (i64.add (local.get $at) (i64.const 1)))
  (br_if $step (i64.lt_u (local.get $at) (i64.const 100000000))))
(call $hole (local.get $length))
;; end read
