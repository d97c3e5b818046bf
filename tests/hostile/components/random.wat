;; A read asks for 64 MiB of random bytes, over and over.

;; begin imports
(import "wasi:random/random@0.2.0" (instance $random
  (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
;; end imports

;; begin core-imports
(import "random" "bytes" (func $random-bytes (param i64 i32)))
;; end core-imports

;; begin lowered
(core func $random-bytes
  (canon lower (func $random "get-random-bytes") (memory $mem) (realloc $realloc)))
;; end lowered

;; begin with
(with "random" (instance (export "bytes" (func $random-bytes))))
;; end with

;; begin pass
(with "wasi:random/random@0.2.0" (instance $random))
;; end pass

;; begin read
(loop $again
  (call $random-bytes (i64.const 0x4000000) (i32.const 0x800))
  (global.set $free (i32.const 0x110000))
  (br $again))
(unreachable)
;; end read
