;; A disk that behaves: the first MiB is stored, the rest reads as zeroes and forgets what is written.
;;
;; Each attack is this component with some blocks replaced. A block is what stands between two
;; comments `begin NAME` and `end NAME`; a file of the attack has blocks of the same names (see
;; assembly.rs). Memory of the guest, in bytes:
;;
;;   0x000100  answers of all functions but `describe` and `open`
;;   0x000200  the answer of `open`
;;   0x000280  the answer of `describe`
;;   0x000300  texts
;;   0x001000  the chunks of `read`, the extents of `extents`
;;   0x010000  the first MiB of the disk
;;   0x110000  arguments of calls, and all that an attack wants
(component
  ;; begin imports
  ;; end imports
  (component $guest
    ;; begin imports
    ;; end imports

    (core module $memory-code
      ;; begin memory
      (memory (export "memory") 64)
      ;; end memory
      (global $free (export "free") (mut i32) (i32.const 0x110000))
      (func (export "cabi_realloc")
        (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
        ;; begin realloc
        (local $at i32) (local $end i64) (local $has i64)
        (local.set $at (i32.and
          (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
          (i32.sub (i32.const 0) (local.get $align))))
        (local.set $end
          (i64.add (i64.extend_i32_u (local.get $at)) (i64.extend_i32_u (local.get $size))))
        (local.set $has (i64.shl (i64.extend_i32_u (memory.size)) (i64.const 16)))
        (if (i64.gt_u (local.get $end) (local.get $has)) (then
          (if (i32.eq (i32.const -1) (memory.grow (i32.wrap_i64 (i64.shr_u
              (i64.add (i64.sub (local.get $end) (local.get $has)) (i64.const 0xffff))
              (i64.const 16)))))
            (then (unreachable)))))
        (global.set $free (i32.wrap_i64 (local.get $end)))
        (local.get $at)
        ;; end realloc
        ))

    (core module $code
      ;; begin core-imports
      ;; end core-imports
      (import "env" "memory" (memory 1))
      (import "env" "free" (global $free (mut i32)))

      ;; What kind of disk it is: `capabilities` are writable, flush, trim, zero, cache, extents and
      ;; multi-conn, to which interchangeable can be added (1024); `stripe` counts where the disk is
      ;; striped.
      ;; begin disk
      (global $size i64 (i64.const 0x4000000))
      (global $capabilities i32 (i32.const 475))
      (global $stripe i64 (i64.const 0))
      ;; end disk

      ;; begin fields
      ;; end fields

      (func $start
        ;; begin start
        ;; end start
        )
      (start $start)

      ;; Whether a range is in the part that is stored.
      (func $is-stored (param $offset i64) (param $length i64) (result i32)
        (i64.le_u (i64.add (local.get $offset) (local.get $length)) (i64.const 0x100000)))

      (func $address (param $offset i64) (result i32)
        (i32.add (i32.const 0x10000) (i32.wrap_i64 (local.get $offset))))

      (func $done (result i32)
        (global.set $free (i32.const 0x110000))
        (i32.store (i32.const 0x100) (i32.const 0))
        (i32.const 0x100))

      (func $fail (param $code i32) (result i32)
        (global.set $free (i32.const 0x110000))
        (i32.store (i32.const 0x100) (i32.const 1))
        (i32.store8 (i32.const 0x104) (local.get $code))
        (i32.store (i32.const 0x108) (i32.const 0))
        (i32.const 0x100))

      (func $list (param $pointer i32) (param $length i32) (result i32)
        (global.set $free (i32.const 0x110000))
        (i32.store (i32.const 0x100) (i32.const 0))
        (i32.store (i32.const 0x104) (local.get $pointer))
        (i32.store (i32.const 0x108) (local.get $length))
        (i32.const 0x100))

      ;; A read that is one chunk of data, or one hole.
      (func $data (param $pointer i32) (param $length i32) (result i32)
        (i32.store (i32.const 0x1000) (i32.const 0))
        (i32.store (i32.const 0x1004) (local.get $pointer))
        (i32.store (i32.const 0x1008) (local.get $length))
        (call $list (i32.const 0x1000) (i32.const 1)))

      (func $hole (param $length i32) (result i32)
        (i32.store (i32.const 0x1000) (i32.const 1))
        (i32.store (i32.const 0x1004) (local.get $length))
        (call $list (i32.const 0x1000) (i32.const 1)))

      (func $loop-forever (loop (br 0)))

      (func (export "describe") (result i32)
        ;; begin describe
        (i32.store (i32.const 0x280) (i32.const 0x300))
        (i32.store (i32.const 0x284) (i32.const 7))
        (i32.store (i32.const 0x288) (i32.const 0x308))
        (i32.store (i32.const 0x28c) (i32.const 5))
        (i32.store (i32.const 0x290) (i32.const 0x310))
        (i32.store (i32.const 0x294) (i32.const 20))
        (i32.const 0x280)
        ;; end describe
        )

      (func (export "open")
        (param $name i32) (param $name-length i32) (param $read-only i32)
        (param $arguments i32) (param $arguments-length i32) (param $memory-limit i64)
        (param $has-client i32) (param $tls i32) (param $peer i32) (param $peer-length i32)
        (result i32)
        ;; begin open
        (global.set $free (i32.const 0x110000))
        (i64.store (i32.const 0x208) (global.get $size))
        (i32.store (i32.const 0x210) (i32.const 1))
        (i32.store (i32.const 0x214) (i32.const 4096))
        (i32.store (i32.const 0x21c) (global.get $capabilities))
        (i32.const 0x200)
        ;; end open
        )

      (func (export "read") (param $offset i64) (param $length i32) (result i32)
        ;; begin read
        (if (call $is-stored (local.get $offset) (i64.extend_i32_u (local.get $length))) (then
          (return (call $data (call $address (local.get $offset)) (local.get $length)))))
        (call $hole (local.get $length))
        ;; end read
        )

      (func (export "write")
        (param $offset i64) (param $data i32) (param $length i32) (param $fua i32) (result i32)
        ;; begin write
        (if (call $is-stored (local.get $offset) (i64.extend_i32_u (local.get $length))) (then
          (memory.copy
            (call $address (local.get $offset)) (local.get $data) (local.get $length))))
        (call $done)
        ;; end write
        )

      (func (export "zero") (param $offset i64) (param $length i64) (param $options i32) (result i32)
        ;; begin zero
        (if (call $is-stored (local.get $offset) (local.get $length)) (then
          (memory.fill (call $address (local.get $offset)) (i32.const 0)
            (i32.wrap_i64 (local.get $length)))))
        (call $done)
        ;; end zero
        )

      (func (export "trim") (param $offset i64) (param $length i64) (param $fua i32) (result i32)
        ;; begin trim
        (call $done)
        ;; end trim
        )

      (func (export "flush") (result i32)
        ;; begin flush
        (call $done)
        ;; end flush
        )

      (func (export "extents") (param $offset i64) (param $length i64) (result i32)
        ;; begin extents
        (i64.store (i32.const 0x1000) (local.get $length))
        (i32.store (i32.const 0x1008) (i32.const 0))
        (call $list (i32.const 0x1000) (i32.const 1))
        ;; end extents
        )

      (func (export "cache") (param $offset i64) (param $length i64) (result i32)
        ;; begin cache
        (call $done)
        ;; end cache
        )

      (func (export "stored") (result i64)
        ;; begin stored
        (i64.const 1)
        ;; end stored
        )

      (func (export "stripe-size") (result i64)
        (global.get $stripe))

      (func (export "page-size") (result i32)
        (i32.const 4096))

      (func (export "page") (param $offset i64) (result i32)
        ;; begin page
        (i32.store (i32.const 0x100) (call $is-stored (local.get $offset) (i64.const 4096)))
        (i32.store (i32.const 0x104) (call $address (local.get $offset)))
        (i32.store (i32.const 0x108) (i32.const 4096))
        (i32.const 0x100)
        ;; end page
        )

      (func (export "make-page") (param $offset i64) (result i32)
        ;; begin make-page
        (i32.store (i32.const 0x100) (i32.const 0))
        (i32.const 0x100)
        ;; end make-page
        )

      (func (export "post-read") (param i32)
        ;; begin post-read
        ;; end post-read
        )

      (data (i32.const 0x300) "hostile\000.1.0\00\00\00a component of tests"))

    (core instance $memory (instantiate $memory-code))
    (alias core export $memory "memory" (core memory $mem))
    (alias core export $memory "cabi_realloc" (core func $realloc))
    ;; begin lowered
    ;; end lowered
    ;; begin modules
    ;; end modules
    (core instance $i (instantiate $code
      (with "env" (instance $memory))
      ;; begin with
      ;; end with
      ))

    (type $error-code' (enum "eperm" "eio" "enomem" "einval" "enospc" "eoverflow" "enotsup"
      "eshutdown"))
    (export $error-code "error-code" (type $error-code'))
    (type $block-error' (record (field "code" $error-code) (field "message" (option string))))
    (export $block-error "error" (type $block-error'))
    (type $number-range' (record (field "minimum" s64) (field "maximum" s64)))
    (export $number-range "number-range" (type $number-range'))
    (type $size-range' (record (field "minimum" u64) (field "maximum" u64)))
    (export $size-range "size-range" (type $size-range'))
    (type $link' (flags "writes" "unshared" "scratch"))
    (export $link "link" (type $link'))
    (type $parameter-type' (variant (case "text") (case "choice" (list string)) (case "boolean")
      (case "number" $number-range) (case "size" $size-range) (case "duration")
      (case "probability") (case "device" $link) (case "file" $link) (case "secret")
      (case "output" (option string))))
    (export $parameter-type "parameter-type" (type $parameter-type'))
    (type $value' (variant (case "text" string) (case "boolean" bool) (case "number" s64)
      (case "size" u64) (case "duration" u64) (case "probability" f64)
        (case "device" u32) (case "secret" (list u8)) (case "output" u32)))
    (export $value "value" (type $value'))
    (type $parameter' (record (field "name" string) (field "summary" string)
      (field "type" $parameter-type) (field "required" bool) (field "repeatable" bool)
      (field "default" (option string))))
    (export $parameter "parameter" (type $parameter'))
    (type $argument' (record (field "name" string) (field "value" $value)))
    (export $argument "argument" (type $argument'))
    (type $client' (record (field "tls" bool) (field "peer" string)))
    (export $client "client" (type $client'))
    (type $open-request' (record (field "export-name" string) (field "read-only" bool)
      (field "arguments" (list $argument)) (field "memory-limit" u64)
      (field "client" (option $client))))
    (export $open-request "open-request" (type $open-request'))
    (type $description' (record (field "name" string) (field "version" string)
      (field "summary" string) (field "parameters" (list $parameter))
      (field "bare-parameter" (option string)) (field "other-parameters" bool)))
    (export $description "description" (type $description'))
    (type $capabilities' (flags "writable" "flush" "fua" "trim" "zero" "fast-zero" "cache" "extents"
      "multi-conn" "rotational" "interchangeable"))
    (export $capabilities "capabilities" (type $capabilities'))
    (type $disk' (record (field "size" u64) (field "minimum-block" u32)
      (field "preferred-block" u32) (field "maximum-transfer" u32)
      (field "capabilities" $capabilities) (field "description" string)))
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
      (canon lift (core func $i "describe") (memory $mem)))
    (func (export "open") (param "request" $open-request)
      (result (result $disk (error $block-error)))
      (canon lift (core func $i "open") (memory $mem) (realloc $realloc)))
    (func (export "read") (param "offset" u64) (param "length" u32)
      (result (result (list $chunk) (error $block-error)))
      (canon lift (core func $i "read") (memory $mem) (post-return (core func $i "post-read"))))
    (func (export "write") (param "offset" u64) (param "data" (list u8)) (param "fua" bool)
      (result (result (error $block-error)))
      (canon lift (core func $i "write") (memory $mem) (realloc $realloc)))
    (func (export "zero") (param "offset" u64) (param "length" u64)
      (param "options" $zero-options) (result (result (error $block-error)))
      (canon lift (core func $i "zero") (memory $mem)))
    (func (export "trim") (param "offset" u64) (param "length" u64) (param "fua" bool)
      (result (result (error $block-error)))
      (canon lift (core func $i "trim") (memory $mem)))
    (func (export "flush") (result (result (error $block-error)))
      (canon lift (core func $i "flush") (memory $mem)))
    (func (export "extents") (param "offset" u64) (param "length" u64)
      (result (result (list $extent) (error $block-error)))
      (canon lift (core func $i "extents") (memory $mem)))
    (func (export "cache") (param "offset" u64) (param "length" u64)
      (result (result (error $block-error)))
      (canon lift (core func $i "cache") (memory $mem)))
    ;; begin sharding-functions
    ;; end sharding-functions
    ;; begin direct-functions
    ;; end direct-functions
    )

  (instance $i (instantiate $guest
    ;; begin pass
    ;; end pass
    ))
  (export "memnbd:block/block-store@0.2.0" (instance $i))
  ;; begin sharding-interface
  ;; end sharding-interface
  ;; begin direct-interface
  ;; end direct-interface
  )
