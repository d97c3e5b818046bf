;; Each stripe of 64 KiB may be given an instance of its own.

;; begin disk
(global $size i64 (i64.const 0x40000000))
(global $capabilities i32 (i32.const 475))
(global $sharing i32 (i32.const 2))
(global $stripe i64 (i64.const 0x10000))
;; end disk
