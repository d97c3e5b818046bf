;; A read prints short lines without end.

;; begin imports
(import "wasi:io/error@0.2.0" (instance $io-error (export "error" (type (sub resource)))))
(alias export $io-error "error" (type $error))
(import "wasi:io/streams@0.2.0" (instance $streams
  (export "output-stream" (type $out (sub resource)))
  (alias outer 1 $error (type $o)) (export "error" (type $e (eq $o)))
  (type $s (variant (case "last-operation-failed" (own $e)) (case "closed")))
  (export "stream-error" (type $stream-error (eq $s)))
  (export "[method]output-stream.blocking-write-and-flush" (func
    (param "self" (borrow $out)) (param "contents" (list u8))
    (result (result (error $stream-error)))))))
(alias export $streams "output-stream" (type $output-stream))
(import "wasi:cli/stdout@0.2.0" (instance $stdout
  (alias outer 1 $output-stream (type $o)) (export "output-stream" (type $s (eq $o)))
  (export "get-stdout" (func (result (own $s))))))
;; end imports

;; begin core-imports
(import "wasi" "get-stdout" (func $get-stdout (result i32)))
(import "wasi" "write" (func $write (param i32 i32 i32 i32)))
;; end core-imports

;; begin lowered
(core func $get-stdout (canon lower (func $stdout "get-stdout")))
(core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
  (memory $mem) (realloc $realloc)))
;; end lowered

;; begin with
(with "wasi" (instance
  (export "get-stdout" (func $get-stdout)) (export "write" (func $write))))
;; end with

;; begin pass
(with "wasi:io/error@0.2.0" (instance $io-error))
(with "wasi:io/streams@0.2.0" (instance $streams))
(with "wasi:cli/stdout@0.2.0" (instance $stdout))
;; end pass

;; begin read
(local $out i32) (local $at i32)
(loop $line
  (i64.store (i32.add (i32.const 0x2000) (local.get $at)) (i64.const 0x0a6472616f68534e))
  (local.set $at (i32.add (local.get $at) (i32.const 8)))
  (br_if $line (i32.lt_u (local.get $at) (i32.const 4096))))
(local.set $out (call $get-stdout))
(loop $again
  (call $write (local.get $out) (i32.const 0x2000) (i32.const 4096) (i32.const 0x800))
  (br $again))
(unreachable)
;; end read
