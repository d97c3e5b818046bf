;; Any number of instances serve it, so that several clients keep several of them busy.

;; begin disk
(global $size i64 (i64.const 0x10000000000))
(global $capabilities i32 (i32.const 1499))
(global $stripe i64 (i64.const 0))
;; end disk
