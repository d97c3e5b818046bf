;; The host reaches into the stored part directly, and so maps the memories of the instance itself.

;; begin direct-functions
(func (export "page-size") (result u32) (canon lift (core func $i "page-size")))
(func (export "page") (param "offset" u64) (result (option (list u8)))
  (canon lift (core func $i "page") (memory $mem)))
(func (export "make-page") (param "offset" u64) (result (option (list u8)))
  (canon lift (core func $i "make-page") (memory $mem)))
;; end direct-functions

;; begin direct-interface
(export "memnbd:block/direct-access@0.2.0" (instance $i))
;; end direct-interface
