;; A flush grows the memory to its full 4 GiB, writes its last byte, and tries to grow further. A
;; request to cache reaches beyond the end, at the end and as far as one can.

;; begin flush
(if (i32.eq (i32.const -1) (memory.grow (i32.sub (i32.const 65536) (memory.size))))
  (then (return (call $fail (i32.const 2)))))
(i32.store8 (i32.const -1) (i32.const 0x66))
(if (i32.ne (i32.const -1) (memory.grow (i32.const 1))) (then (return (call $fail (i32.const 3)))))
(if (i32.ne (i32.const -1) (memory.grow (i32.const 512)))
  (then (return (call $fail (i32.const 3)))))
(call $done)
;; end flush

;; begin cache
(if (i64.eqz (local.get $offset)) (then (i32.store (i32.const -1) (i32.const 0x66666666))))
(i32.store offset=0xffffffff (i32.const -1) (i32.const 0x66666666))
(call $done)
;; end cache
