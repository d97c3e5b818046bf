;; A component whose routes are what the host keeps on its third lower device, the script.
;;
;; `open` copies the script, 0x4000 bytes, to address 0. There it has the addresses of answers, and what
;; the disk offers:
;;
;;   0x00  of `rules`
;;   0x04  of `route`, for each of the six operations
;;   0x1c  of `done`
;;   0x20  of `stable`, for each operation first at offset 0, then elsewhere
;;   0x50  the capabilities of the disk, which has 64 KiB
;;
;; So each answer depends on the arguments alone. Its own content is zero. `done` prefetches all of the
;; script, which tells the host that it was called. The rest of its four pages is zero whenever an answer
;; of the script is lifted:
;;
;;   0x20000  arguments and what is read, zeroed after each call that has some
;;   0x3fe00  answers that are always the same, zeroed once they were lifted
;;   0x3ff00  the answer of everything else: ok
(component
  {{import}}
  (component $guest
    {{import}}

    (core module $memory-code
      (memory (export "memory") 4 4)
      (global $free (export "free") (mut i32) (i32.const 0x20000))
      (func (export "cabi_realloc")
        (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
        (global.set $free (i32.add (local.get $at) (local.get $size)))
        (local.get $at)))

    (core module $code
      (import "env" "memory" (memory 4))
      (import "env" "free" (global $free (mut i32)))
      (import "lower" "read" (func $lower-read (param i32 i64 i32 i32)))
      (import "lower" "cache" (func $lower-cache (param i32 i64 i64 i32)))
      {{core-import}}

      (func $ok (result i32)
        (memory.fill (i32.const 0x20000) (i32.const 0)
          (i32.sub (global.get $free) (i32.const 0x20000)))
        (global.set $free (i32.const 0x20000))
        (i32.const 0x3ff00))

      (func (export "forget") (param i32)
        (memory.fill (i32.const 0x3fe00) (i32.const 0) (i32.const 0x100)))

      (func (export "describe") (result i32) (call $ok))

      (func (export "open") (param i32 i32 i32 i32 i32 i64 i32 i32 i32 i32)
        (result i32)
        ;; The result of `read` is ok, and its list has one chunk, which is data.
        (call $lower-read (i32.const 2) (i64.const 0) (i32.const 0x4000) (i32.const 0x3fe00))
        (memory.copy (i32.const 0)
          (i32.load offset=4 (i32.load (i32.const 0x3fe04))) (i32.const 0x4000))
        (drop (call $ok))
        (memory.fill (i32.const 0x3fe00) (i32.const 0) (i32.const 0x100))
        (i64.store (i32.const 0x3fe08) (i64.const 0x10000))
        (i32.store (i32.const 0x3fe10) (i32.const 1))
        (i32.store (i32.const 0x3fe14) (i32.const 4096))
        (i32.store16 (i32.const 0x3fe1c) (i32.load16_u (i32.const 0x50)))
        (i32.const 0x3fe00))

      (func (export "read") (param i64) (param $length i32) (result i32)
        (i32.store (i32.const 0x3fe04) (i32.const 0x3fe20))
        (i32.store (i32.const 0x3fe08) (i32.const 1))
        (i32.store (i32.const 0x3fe20) (i32.const 1))
        (i32.store (i32.const 0x3fe24) (local.get $length))
        (i32.const 0x3fe00))

      (func (export "extents") (param i64) (param $length i64) (result i32)
        (i32.store (i32.const 0x3fe04) (i32.const 0x3fe20))
        (i32.store (i32.const 0x3fe08) (i32.const 1))
        (i64.store (i32.const 0x3fe20) (local.get $length))
        (i32.store (i32.const 0x3fe28) (i32.const 3))
        (i32.const 0x3fe00))

      (func (export "write") (param i64 i32 i32 i32) (result i32) (call $ok))
      (func (export "zero") (param i64 i64 i32) (result i32) (call $ok))
      (func (export "trim") (param i64 i64 i32) (result i32) (call $ok))
      (func (export "cache") (param i64 i64) (result i32) (call $ok))
      (func (export "flush") (result i32) {{withdraw}} (call $ok))

      (func (export "rules") (result i32) (i32.load (i32.const 0)))

      (func (export "route") (param $operation i32) (param i64 i64 i32 i32 i32) (result i32)
        (i32.load offset=4 (i32.shl (local.get $operation) (i32.const 2))))

      (func (export "done") (param i64 i32 i32 i32 i32) (result i32)
        (call $lower-cache (i32.const 2) (i64.const 0) (i64.const 0x4000) (i32.const 0x3fe00))
        (memory.fill (i32.const 0x3fe00) (i32.const 0) (i32.const 0x100))
        (drop (call $ok))
        (i32.load (i32.const 0x1c)))

      (func (export "stable") (param $operation i32) (param $offset i64) (result i32)
        (i32.load offset=0x20 (i32.add (i32.shl (local.get $operation) (i32.const 3))
          (i32.shl (i64.ne (local.get $offset) (i64.const 0)) (i32.const 2))))))

    (core instance $memory-instance (instantiate $memory-code))
    (alias core export $memory-instance "memory" (core memory $memory))
    (alias core export $memory-instance "cabi_realloc" (core func $realloc))
    (core func $lower-read (canon lower (func $lower "read") (memory $memory)
      (realloc $realloc)))
    (core func $lower-cache (canon lower (func $lower "cache") (memory $memory)
      (realloc $realloc)))
    {{lowered}}
    (core instance $i (instantiate $code
      (with "env" (instance $memory-instance))
      (with "lower" (instance
        (export "read" (func $lower-read))
        (export "cache" (func $lower-cache))
        {{with}}))))

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
    (type $operation' (enum "read" "write" "zero" "trim" "cache" "extents"))
    (export $operation "operation" (type $operation'))
    (type $request' (record (field "operation" $operation) (field "offset" u64)
      (field "length" u64) (field "fua" bool) (field "keep-allocated" bool) (field "fast" bool)))
    (export $request "request" (type $request'))
    (type $lock' (enum "none" "shared" "exclusive"))
    (export $lock "lock" (type $lock'))
    (type $lock-rules' (record (field "granule" u64) (field "read" $lock) (field "write" $lock)
      (field "zero" $lock) (field "trim" $lock) (field "cache" $lock)))
    (export $lock-rules "lock-rules" (type $lock-rules'))
    (type $location' (record (field "device" u32) (field "offset" u64)))
    (export $location "location" (type $location'))
    (type $place' (variant (case "lower" $location) (case "own") (case "hole")))
    (export $place "place" (type $place'))
    (type $segment' (record (field "place" $place) (field "length" u64)))
    (export $segment "segment" (type $segment'))
    (type $copy' (record (field "from" $location) (field "to" $location) (field "length" u64)))
    (export $copy "copy" (type $copy'))
    (type $plan' (record (field "copies" (list $copy)) (field "segments" (list $segment))
      (field "delay" u64) (field "done" (option u64)) (field "hold" (option u64))))
    (export $plan "plan" (type $plan'))
    (type $results' (record (field "copies" (list (option $error-code)))
      (field "segments" (list (option $error-code)))))
    (export $results "results" (type $results'))
    (type $stable-route' (record (field "length" u64) (field "place" $place)))
    (export $stable-route "stable-route" (type $stable-route'))

    (func (export "describe") (result $description)
      (canon lift (core func $i "describe") (memory $memory)))
    (func (export "open") (param "request" $open-request)
      (result (result $disk (error $error)))
      (canon lift (core func $i "open") (memory $memory) (realloc $realloc)
        (post-return (core func $i "forget"))))
    (func (export "read") (param "offset" u64) (param "length" u32)
      (result (result (list $chunk) (error $error)))
      (canon lift (core func $i "read") (memory $memory)
        (post-return (core func $i "forget"))))
    (func (export "write") (param "offset" u64) (param "data" (list u8)) (param "fua" bool)
      (result (result (error $error)))
      (canon lift (core func $i "write") (memory $memory) (realloc $realloc)))
    (func (export "zero") (param "offset" u64) (param "length" u64)
      (param "options" $zero-options) (result (result (error $error)))
      (canon lift (core func $i "zero") (memory $memory)))
    (func (export "trim") (param "offset" u64) (param "length" u64) (param "fua" bool)
      (result (result (error $error)))
      (canon lift (core func $i "trim") (memory $memory)))
    (func (export "flush") (result (result (error $error)))
      (canon lift (core func $i "flush") (memory $memory)))
    (func (export "extents") (param "offset" u64) (param "length" u64)
      (result (result (list $extent) (error $error)))
      (canon lift (core func $i "extents") (memory $memory)
        (post-return (core func $i "forget"))))
    (func (export "cache") (param "offset" u64) (param "length" u64)
      (result (result (error $error)))
      (canon lift (core func $i "cache") (memory $memory)))
    (func (export "rules") (result $lock-rules)
      (canon lift (core func $i "rules") (memory $memory)))
    (func (export "route") (param "request" $request) (result (result $plan (error $error)))
      (canon lift (core func $i "route") (memory $memory)))
    (func (export "done") (param "token" u64) (param "results" $results)
      (result (result (option u64) (error $error)))
      (canon lift (core func $i "done") (memory $memory) (realloc $realloc)))
    (func (export "stable") (param "operation" $operation) (param "offset" u64)
      (result (option $stable-route))
      (canon lift (core func $i "stable") (memory $memory))))

  (instance $i (instantiate $guest (with "memnbd:block/lower@0.2.0" (instance $lower))))
  (export "memnbd:block/routing@0.2.0" (instance $i))
  (export "memnbd:block/block-store@0.2.0" (instance $i)))
