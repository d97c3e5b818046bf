;; A flush grows a table until that is refused, and says that there is no more space.

;; begin fields
(table $table 1 funcref)
;; end fields

;; begin flush
(loop $more
  (br_if $more (i32.ne (i32.const -1)
    (table.grow $table (ref.null func) (i32.const 0x10000)))))
(call $fail (i32.const 4))
;; end flush
