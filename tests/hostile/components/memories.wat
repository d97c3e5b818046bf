;; 99 memories in each instance.

;; begin modules
(core module $one (memory 1))
(component $eleven
  (core module $one (memory 1))
  (core instance (instantiate $one)) (core instance (instantiate $one))
  (core instance (instantiate $one)) (core instance (instantiate $one))
  (core instance (instantiate $one)) (core instance (instantiate $one))
  (core instance (instantiate $one)) (core instance (instantiate $one))
  (core instance (instantiate $one)) (core instance (instantiate $one))
  (core instance (instantiate $one)))
(instance (instantiate $eleven)) (instance (instantiate $eleven)) (instance (instantiate $eleven))
(instance (instantiate $eleven)) (instance (instantiate $eleven)) (instance (instantiate $eleven))
(instance (instantiate $eleven)) (instance (instantiate $eleven))
(core instance (instantiate $one)) (core instance (instantiate $one))
(core instance (instantiate $one)) (core instance (instantiate $one))
(core instance (instantiate $one)) (core instance (instantiate $one))
(core instance (instantiate $one)) (core instance (instantiate $one))
(core instance (instantiate $one)) (core instance (instantiate $one))
;; end modules
