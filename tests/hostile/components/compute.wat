;; A read at `offset` computes for as many million steps as `offset` has blocks of 4 KiB, then returns.

;; begin read
(local $steps i64)
(local.set $steps (i64.mul (i64.const 1000000) (i64.shr_u (local.get $offset) (i64.const 12))))
(block $enough
  (loop $step
    (br_if $enough (i64.eqz (local.get $steps)))
    (local.set $steps (i64.sub (local.get $steps) (i64.const 1)))
    (br $step)))
(call $hole (local.get $length))
;; end read
