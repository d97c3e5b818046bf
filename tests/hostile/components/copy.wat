;; A read moves 2.75 GiB by one byte with one instruction after the other.

;; begin fields
(global $pages i32 (i32.const 45056))
;; end fields

;; begin read
(drop (memory.grow (i32.sub (global.get $pages) (memory.size))))
(loop $again
  (memory.copy (i32.const 0x110001) (i32.const 0x110000)
    (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 0x110001)))
  (br $again))
(unreachable)
;; end read
