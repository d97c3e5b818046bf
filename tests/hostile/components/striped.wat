;; Each stripe of 64 KiB may be given an instance of its own.

;; begin disk
(global $size i64 (i64.const 0x40000000))
(global $capabilities i32 (i32.const 475))
(global $stripe i64 (i64.const 0x10000))
;; end disk

;; begin sharding-functions
(func (export "stripe-size") (result u64) (canon lift (core func $i "stripe-size")))
(func (export "stored") (result u64) (canon lift (core func $i "stored")))
;; end sharding-functions

;; begin sharding-interface
(export "memnbd:block/sharding@0.2.0" (instance $i))
;; end sharding-interface
