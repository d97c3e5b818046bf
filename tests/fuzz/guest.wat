;; A component whose every answer is what the host wrote to its memory before.
;;
;; `write` replaces the memory from address 0 on: the rest, up to 0x20000, becomes zero. The u32 at
;; address 0 is the address that `describe`, `open`, `read` and `extents` return. Its memory has
;; four pages and does not grow:
;;
;;   0x00000  what was written
;;   0x20000  arguments, zeroed after each call that has some
;;   0x3ff00  the answer of everything else: ok
(component
  (component $guest
    (core module $code
      (memory (export "memory") 4 4)
      ;; At first, a description without texts and parameters.
      (data (i32.const 0) "\08")
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0x20000))
      (func $answer (result i32) (i32.load (i32.const 0)))
      (func $ok (result i32) (i32.const 0x3ff00))
      (func (export "describe") (result i32) (call $answer))
      (func (export "open") (param i32 i32 i32 i32 i32) (result i32) (call $answer))
      (func (export "read") (param i64 i32) (result i32) (call $answer))
      (func (export "extents") (param i64 i64) (result i32) (call $answer))
      (func (export "write") (param i64) (param $data i32) (param $length i32) (param i32)
        (result i32)
        (memory.fill (i32.const 0) (i32.const 0) (i32.const 0x20000))
        (memory.copy (i32.const 0) (local.get $data) (local.get $length))
        (memory.fill (local.get $data) (i32.const 0) (local.get $length))
        (call $ok))
      (func (export "zero") (param i64 i64 i32) (result i32) (call $ok))
      (func (export "trim") (param i64 i64 i32) (result i32) (call $ok))
      (func (export "flush") (result i32) (call $ok))
      (func (export "cache") (param i64 i64) (result i32) (call $ok))
      (func (export "stored") (result i64) (i64.const 0)))

    (core instance $i (instantiate $code))
    (alias core export $i "memory" (core memory $memory))
    (alias core export $i "cabi_realloc" (core func $realloc))

    (type $error-code' (enum "eperm" "eio" "enomem" "einval" "enospc" "eoverflow" "enotsup"
      "eshutdown"))
    (export $error-code "error-code" (type $error-code'))
    (type $parameter' (record (field "name" string) (field "summary" string)
      (field "required" bool) (field "default" (option string))))
    (export $parameter "parameter" (type $parameter'))
    (type $description' (record (field "name" string) (field "version" string)
      (field "summary" string) (field "parameters" (list $parameter))
      (field "bare-parameter" (option string))))
    (export $description "description" (type $description'))
    (type $capabilities' (flags "writable" "flush" "fua" "trim" "zero" "fast-zero" "cache" "extents"
      "multi-conn" "rotational" "lends-chunks"))
    (export $capabilities "capabilities" (type $capabilities'))
    (type $sharing' (variant (case "exclusive") (case "interchangeable") (case "striped" u64)))
    (export $sharing "sharing" (type $sharing'))
    (type $disk' (record (field "size" u64) (field "minimum-block" u32)
      (field "preferred-block" u32) (field "maximum-transfer" u32)
      (field "capabilities" $capabilities) (field "sharing" $sharing) (field "description" string)))
    (export $disk "disk" (type $disk'))
    (type $chunk' (variant (case "data" (list u8)) (case "hole" u32)))
    (export $chunk "chunk" (type $chunk'))
    (type $status' (flags "hole" "zero"))
    (export $status "status" (type $status'))
    (type $extent' (record (field "length" u64) (field "status" $status)))
    (export $extent "extent" (type $extent'))
    (type $zero-options' (flags "fua" "keep-allocated" "fast"))
    (export $zero-options "zero-options" (type $zero-options'))

    (func (export "describe") (result $description)
      (canon lift (core func $i "describe") (memory $memory)))
    (func (export "open") (param "export-name" string) (param "read-only" bool)
      (param "parameters" (list (tuple string string))) (result (result $disk (error string)))
      (canon lift (core func $i "open") (memory $memory) (realloc $realloc)))
    (func (export "read") (param "offset" u64) (param "length" u32)
      (result (result (list $chunk) (error $error-code)))
      (canon lift (core func $i "read") (memory $memory)))
    (func (export "write") (param "offset" u64) (param "data" (list u8)) (param "fua" bool)
      (result (result (error $error-code)))
      (canon lift (core func $i "write") (memory $memory) (realloc $realloc)))
    (func (export "zero") (param "offset" u64) (param "length" u64)
      (param "options" $zero-options) (result (result (error $error-code)))
      (canon lift (core func $i "zero") (memory $memory)))
    (func (export "trim") (param "offset" u64) (param "length" u64) (param "fua" bool)
      (result (result (error $error-code)))
      (canon lift (core func $i "trim") (memory $memory)))
    (func (export "flush") (result (result (error $error-code)))
      (canon lift (core func $i "flush") (memory $memory)))
    (func (export "extents") (param "offset" u64) (param "length" u64)
      (result (result (list $extent) (error $error-code)))
      (canon lift (core func $i "extents") (memory $memory)))
    (func (export "cache") (param "offset" u64) (param "length" u64)
      (result (result (error $error-code)))
      (canon lift (core func $i "cache") (memory $memory)))
    (func (export "stored") (result u64)
      (canon lift (core func $i "stored"))))

  (instance $i (instantiate $guest))
  (export "memnbd:block/block-store@0.1.0" (instance $i)))
