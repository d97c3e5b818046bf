//! Gives the component a stack of 128 KiB, in place of the 1 MiB that the compiler reserves unless told: each
//! clone pays for it, though none uses more than some KiB. The stack lies below everything else, so one that
//! overflows is a trap.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("wasm32") {
        println!("cargo::rustc-link-arg-cdylib=-zstack-size=131072");
    }
}
