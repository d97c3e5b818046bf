;; A flush grows the memory until that is refused, 1 MiB at a time, fills each new MiB, and says that
;; there is no more space.

;; begin flush
(local $at i32)
(loop $more
  (local.set $at (memory.grow (i32.const 16)))
  (if (i32.ne (local.get $at) (i32.const -1)) (then
    (memory.fill (i32.shl (local.get $at) (i32.const 16)) (i32.const 0x66) (i32.const 0x100000))
    (br $more))))
(call $fail (i32.const 4))
;; end flush
