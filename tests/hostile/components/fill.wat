;; A read fills 2.75 GiB with one instruction after the other, none of which can be interrupted.

;; begin fields
(global $pages i32 (i32.const 45056))
;; end fields

;; begin read
(drop (memory.grow (i32.sub (global.get $pages) (memory.size))))
(loop $again
  (memory.fill (i32.const 0x110000) (i32.const 0x5a)
    (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 0x110000)))
  (br $again))
(unreachable)
;; end read
