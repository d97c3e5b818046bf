;; A second memory with 64-bit addresses. A flush grows it beyond 4 GiB and the guard behind, and
;; overwrites what is there.

;; begin modules
(core module $large-code
  (memory $large i64 1)
  (func (export "attack")
    ;; 4 GiB and 64 MiB more than there were.
    (drop (memory.grow (i64.const 66560)))
    (memory.fill (i64.const 0x100000000) (i32.const 0x66) (i64.const 0x4000000))))
(core instance $large (instantiate $large-code))
;; end modules

;; begin core-imports
(import "large" "attack" (func $attack))
;; end core-imports

;; begin with
(with "large" (instance $large))
;; end with

;; begin flush
(call $attack)
(call $done)
;; end flush
