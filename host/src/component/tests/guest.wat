;; A component that is written to be tested with: a RAM disk of up to 1 MiB that logs its calls, of
;; which any function can be replaced. `guest.rs` fills in what is in double braces.
;;
;; Its memory, in bytes:
;;
;;   0x000100  the answer that is neither a list nor a record
;;   0x000200  what `open` answers
;;   0x000280  what `describe` answers
;;   0x000300  texts
;;   0x001000  the chunks of `read`
;;   0x002000  the extents of `extents`
;;   0x002800  what `commands` answers
;;   0x002c00  what `exports` answers
;;   0x003000  the segments of `route`
;;   0x003800  the copies of `route`
;;   0x004000  the log of calls: of each its number, flags, offset and length
;;   0x010000  the disk
;;   0x110000  arguments
(component
  {{imports}}
  (component $guest
    {{imports}}

    (core module $memory-code
      (memory (export "memory") {{memory}})
      (global $free (export "free") (mut i32) (i32.const 0x110000))
      (func (export "cabi_realloc")
        (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
        (local $at i32)
        {{realloc}}))

    (core module $code
      {{core-imports}}
      (import "env" "memory" (memory 1))
      (import "env" "free" (global $free (mut i32)))
      (global $log-end (mut i32) (i32.const 0x4000))
      (global $log-was-read (mut i32) (i32.const 0))

      (func $begin {{start}})
      (start $begin)

      (func $log (param $call i32) (param $flags i32) (param $offset i64) (param $length i64)
        (if (global.get $log-was-read) (then
          (memory.fill (i32.const 0x4000) (i32.const 0) (i32.const 0xc000))
          (global.set $log-end (i32.const 0x4000))
          (global.set $log-was-read (i32.const 0))))
        (if (i32.lt_u (global.get $log-end) (i32.const 0xffe8)) (then
          (i32.store (global.get $log-end) (local.get $call))
          (i32.store offset=4 (global.get $log-end) (local.get $flags))
          (i64.store offset=8 (global.get $log-end) (local.get $offset))
          (i64.store offset=16 (global.get $log-end) (local.get $length))
          (global.set $log-end (i32.add (global.get $log-end) (i32.const 24))))))

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
        (i32.store (i32.const 0x100) (i32.const 0))
        (i32.store (i32.const 0x104) (local.get $pointer))
        (i32.store (i32.const 0x108) (local.get $length))
        (i32.const 0x100))

      (func $data (param $at i32) (param $pointer i32) (param $length i32)
        (i32.store (local.get $at) (i32.const 0))
        (i32.store offset=4 (local.get $at) (local.get $pointer))
        (i32.store offset=8 (local.get $at) (local.get $length)))

      (func $hole (param $at i32) (param $length i32)
        (i32.store (local.get $at) (i32.const 1))
        (i32.store offset=4 (local.get $at) (local.get $length)))

      (func $extent (param $at i32) (param $length i64) (param $status i32)
        (i64.store (local.get $at) (local.get $length))
        (i32.store offset=8 (local.get $at) (local.get $status)))

      (func $address (param $offset i64) (result i32)
        (i32.add (i32.const 0x10000) (i32.wrap_i64 (local.get $offset))))

      ;; The end of the block of 4 KiB that an offset is in, or an earlier end.
      (func $block-end (param $at i64) (param $end i64) (result i64)
        (local $block-end i64)
        (local.set $block-end
          (i64.add (i64.or (local.get $at) (i64.const 4095)) (i64.const 1)))
        (select (local.get $block-end) (local.get $end)
          (i64.lt_u (local.get $block-end) (local.get $end))))

      (func $is-zero (param $at i64) (param $end i64) (result i32)
        (loop $next
          (if (i64.ge_u (local.get $at) (local.get $end)) (then (return (i32.const 1))))
          (if (i32.load8_u (call $address (local.get $at))) (then (return (i32.const 0))))
          (local.set $at (i64.add (local.get $at) (i64.const 1)))
          (br $next))
        (unreachable))

      (func (export "describe") (result i32)
        {{describe}})

      (func (export "open")
        (param $name i32) (param $name-length i32) (param $read-only i32)
        (param $arguments i32) (param $arguments-length i32) (param $memory-limit i64)
        (param $has-client i32) (param $tls i32) (param $peer i32) (param $peer-length i32)
        (result i32)
        {{open}})

      (func (export "read") (param $offset i64) (param $length i32) (result i32)
        (local $at i64) (local $end i64) (local $next i64) (local $chunk i32)
        {{read}})

      (func (export "write")
        (param $offset i64) (param $data i32) (param $length i32) (param $fua i32) (result i32)
        {{write}})

      (func (export "zero") (param $offset i64) (param $length i64) (param $options i32) (result i32)
        {{zero}})

      (func (export "trim") (param $offset i64) (param $length i64) (param $fua i32) (result i32)
        {{trim}})

      (func $flush (export "flush") (result i32)
        {{flush}})

      (func (export "extents") (param $offset i64) (param $length i64) (result i32)
        (local $at i64) (local $end i64) (local $next i64) (local $extent i32)
        {{extents}})

      (func (export "cache") (param $offset i64) (param $length i64) (result i32)
        {{cache}})

      (func (export "stored") (result i64)
        {{stored}})

      (func (export "stripe-size") (result i64)
        {{stripe-size}})

      (func (export "page-size") (result i32)
        {{page-size}})

      (func (export "page") (param $offset i64) (result i32)
        {{page}})

      (func (export "make-page") (param $offset i64) (result i32)
        {{make-page}})

      ;; A segment: kind 0 is on a lower device, 1 is the component's own, 2 a hole.
      (func $segment (param $index i32) (param $kind i32) (param $device i32) (param $offset i64)
        (param $length i64)
        (local $at i32)
        (local.set $at (i32.add (i32.const 0x3000) (i32.mul (local.get $index) (i32.const 32))))
        (i32.store (local.get $at) (local.get $kind))
        (i32.store offset=8 (local.get $at) (local.get $device))
        (i64.store offset=16 (local.get $at) (local.get $offset))
        (i64.store offset=24 (local.get $at) (local.get $length)))

      (func $copy (param $index i32) (param $from i32) (param $from-offset i64) (param $to i32)
        (param $to-offset i64) (param $length i64)
        (local $at i32)
        (local.set $at (i32.add (i32.const 0x3800) (i32.mul (local.get $index) (i32.const 40))))
        (i32.store (local.get $at) (local.get $from))
        (i64.store offset=8 (local.get $at) (local.get $from-offset))
        (i32.store offset=16 (local.get $at) (local.get $to))
        (i64.store offset=24 (local.get $at) (local.get $to-offset))
        (i64.store offset=32 (local.get $at) (local.get $length)))

      ;; A route of this many segments and copies, with a delay in nanoseconds, and a token unless that is
      ;; 0.
      (func $routed (param $segments i32) (param $copies i32) (param $delay i64) (param $token i64)
        (result i32)
        (i32.store (i32.const 0x100) (i32.const 0))
        (i32.store (i32.const 0x108) (i32.const 0x3800))
        (i32.store (i32.const 0x10c) (local.get $copies))
        (i32.store (i32.const 0x110) (i32.const 0x3000))
        (i32.store (i32.const 0x114) (local.get $segments))
        (i64.store (i32.const 0x118) (local.get $delay))
        (i32.store (i32.const 0x120) (i64.ne (local.get $token) (i64.const 0)))
        (i64.store (i32.const 0x128) (local.get $token))
        (i32.store (i32.const 0x130) (i32.const 0))
        (i32.const 0x100))

      ;; Holds what `$routed` returned.
      (func $held (param $route i32) (param $number i64) (result i32)
        (i32.store (i32.const 0x130) (i32.const 1))
        (i64.store (i32.const 0x138) (local.get $number))
        (local.get $route))

      ;; The answers of `done`: that is all, or once more after a time in nanoseconds.
      (func $finished (result i32)
        (i32.store (i32.const 0x100) (i32.const 0))
        (i32.store (i32.const 0x108) (i32.const 0))
        (i32.const 0x100))
      (func $again (param $delay i64) (result i32)
        (i32.store (i32.const 0x100) (i32.const 0))
        (i32.store (i32.const 0x108) (i32.const 1))
        (i64.store (i32.const 0x110) (local.get $delay))
        (i32.const 0x100))

      ;; An error of `route` or `done`, whose answers are aligned to 8 bytes.
      (func $refuse (param $code i32) (result i32)
        (i32.store (i32.const 0x100) (i32.const 1))
        (i32.store (i32.const 0x108) (local.get $code))
        (i32.store (i32.const 0x10c) (i32.const 0))
        (i32.const 0x100))

      ;; The stable route of the rest of the disk, at the same offset of a lower device.
      (func $passed (param $device i32) (param $offset i64) (param $length i64) (result i32)
        (i32.store (i32.const 0x100) (i32.const 1))
        (i64.store (i32.const 0x108) (local.get $length))
        (i32.store (i32.const 0x110) (i32.const 0))
        (i32.store (i32.const 0x118) (local.get $device))
        (i64.store (i32.const 0x120) (local.get $offset))
        (i32.const 0x100))

      (func (export "rules") (result i32)
        (i64.store (i32.const 0x100) (i64.const {{granule}}))
        (i64.store (i32.const 0x108) (i64.const {{locks}}))
        (i32.const 0x100))

      (func (export "route") (param $operation i32) (param $offset i64) (param $length i64)
        (param $fua i32) (param $keep i32) (param $fast i32) (result i32)
        (call $log (i32.const 10) (local.get $operation) (local.get $offset) (local.get $length))
        {{route}})

      (func (export "done") (param $token i64) (param $copies i32) (param $copies-length i32)
        (param $segments i32) (param $segments-length i32) (result i32)
        (local $failed i64)
        ;; The bits of those that failed: the segments first, then the copies.
        (loop $next
          (if (i32.gt_u (local.get $segments-length) (i32.const 0)) (then
            (local.set $segments-length (i32.sub (local.get $segments-length) (i32.const 1)))
            (local.set $failed (i64.or (local.get $failed) (i64.shl
              (i64.extend_i32_u (i32.load8_u (i32.add (local.get $segments)
                (i32.mul (local.get $segments-length) (i32.const 2)))))
              (i64.extend_i32_u (local.get $segments-length)))))
            (br $next))))
        (call $log (i32.const 11) (local.get $copies-length) (local.get $token)
          (local.get $failed))
        {{done}})

      (func (export "stable") (param $operation i32) (param $offset i64) (result i32)
        {{stable}})

      (func (export "flush-began") (result i64)
        (call $log (i32.const 12) (i32.const 0) (i64.const 0) (i64.const 0))
        (i64.const 7))

      (func (export "flush-ended") (param $token i64) (param $failed i32) (param $code i32)
        (call $log (i32.const 13) (i32.add (local.get $failed) (local.get $code))
          (local.get $token) (i64.const 0)))

      (func (export "closing")
        (call $log (i32.const 14) (i32.const 0) (i64.const 0) (i64.const 0))
        {{closing}})

      (func (export "commands") (result i32)
        (global.set $free (i32.const 0x110000))
        (i32.const 0x2800))

      (func (export "execute") (param $name i32) (param $name-length i32)
        (param $arguments i32) (param $arguments-length i32) (result i32)
        (global.set $free (i32.const 0x110000))
        {{execute}})

      ;; A text of `execute`.
      (func $answer (param $pointer i32) (param $length i32) (result i32)
        (call $list (local.get $pointer) (local.get $length)))

      (func (export "exports")
        (param $name i32) (param $name-length i32) (param $read-only i32)
        (param $arguments i32) (param $arguments-length i32) (param $memory-limit i64)
        (param $has-client i32) (param $tls i32) (param $peer i32) (param $peer-length i32)
        (result i32)
        (global.set $free (i32.const 0x110000))
        {{exports}})

      (func (export "post-read") (param i32)
        {{post-read}})

      (data (i32.const 0x200) "{{open-data}}")
      (data (i32.const 0x280) "{{describe-data}}")
      (data (i32.const 0x300) "{{texts}}")
      (data (i32.const 0x2800) "{{commands-data}}")
      (data (i32.const 0x2c00) "{{exports-data}}"))

    (core instance $memory (instantiate $memory-code))
    (alias core export $memory "memory" (core memory $mem))
    (alias core export $memory "cabi_realloc" (core func $realloc))
    {{lowered}}
    (core instance $i (instantiate $code
      (with "env" (instance $memory))
      {{with}}))

    (type $error-code' (enum "eperm" "eio" "enomem" "einval" "enospc" "eoverflow" "enotsup"
      "eshutdown"))
    (export $error-code "error-code" (type $error-code'))
    (type $error' (record (field "code" $error-code) (field "message" (option string))))
    (export $error "error" (type $error'))
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
      (result (result $disk (error $error)))
      (canon lift (core func $i "open") (memory $mem) (realloc $realloc)))
    (func (export "read") (param "offset" u64) (param "length" {{length-type}})
      (result (result (list $chunk) (error $error)))
      (canon lift (core func $i "read") (memory $mem) (post-return (core func $i "post-read"))))
    (func (export "write") (param "offset" u64) (param "data" (list u8)) (param "fua" bool)
      (result (result (error $error)))
      (canon lift (core func $i "write") (memory $mem) (realloc $realloc)))
    (func (export "zero") (param "offset" u64) (param "length" u64)
      (param "options" $zero-options) (result (result (error $error)))
      (canon lift (core func $i "zero") (memory $mem)))
    (func (export "trim") (param "offset" u64) (param "length" u64) (param "fua" bool)
      (result (result (error $error)))
      (canon lift (core func $i "trim") (memory $mem)))
    (func (export "flush") (result (result (error $error)))
      (canon lift (core func $i "flush") (memory $mem)))
    (func (export "extents") (param "offset" u64) (param "length" u64)
      (result (result (list $extent) (error $error)))
      (canon lift (core func $i "extents") (memory $mem)))
    (func (export "cache") (param "offset" u64) (param "length" u64)
      (result (result (error $error)))
      (canon lift (core func $i "cache") (memory $mem)))
    (func (export "stripe-size") (result u64) (canon lift (core func $i "stripe-size")))
    (func (export "{{stored-name}}") (result u64) (canon lift (core func $i "stored")))
    {{direct-functions}}
    {{routing-functions}}
    {{control-functions}}
    {{listing-functions}}
    {{event-functions}})

  (instance $i (instantiate $guest {{pass}}))
  (export "{{interface}}" (instance $i))
  (export "memnbd:block/sharding@0.2.0" (instance $i))
  {{lending-interface}}
  {{direct-interface}}
  {{routing-interface}}
  {{control-interface}}
  {{listing-interface}}
  {{event-interface}})
