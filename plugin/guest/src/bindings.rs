//! The generated bindings of the contract, on wasm32. [`Backend`](crate::Backend) is easier to use;
//! these are for components that implement the contract directly.

#![allow(missing_docs, unreachable_pub, clippy::all)]

wit_bindgen::generate!({
    path: "wit",
    world: "backend",
    pub_export_macro: true,
    default_bindings_module: "memnbd_guest::bindings",
});

/// What a filter has in addition to a backend. The linker merges both into the world `filter`.
pub mod routing {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package memnbd:guest;
            world routed {
                import memnbd:block/lower@0.2.0;
                export memnbd:block/routing@0.2.0;
            }
        ",
        with: {
            "memnbd:block/types@0.2.0": crate::bindings::memnbd::block::types,
            "memnbd:block/lower@0.2.0": generate,
        },
        pub_export_macro: true,
        default_bindings_module: "memnbd_guest::bindings::routing",
    });
}

/// What a component with commands has in addition.
pub mod control {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package memnbd:guest;
            world controlled { export memnbd:block/control@0.2.0; }
        ",
        with: { "memnbd:block/types@0.2.0": crate::bindings::memnbd::block::types },
        pub_export_macro: true,
        default_bindings_module: "memnbd_guest::bindings::control",
    });
}

/// What a component that writes to files has in addition.
pub mod output {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package memnbd:guest;
            world writes { import memnbd:block/output@0.2.0; }
        ",
        with: {
            "memnbd:block/types@0.2.0": crate::bindings::memnbd::block::types,
            "memnbd:block/output@0.2.0": generate,
        },
    });
}

/// What a component that is told of events has in addition.
pub mod events {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package memnbd:guest;
            world told { export memnbd:block/events@0.2.0; }
        ",
        with: { "memnbd:block/types@0.2.0": crate::bindings::memnbd::block::types },
        pub_export_macro: true,
        default_bindings_module: "memnbd_guest::bindings::events",
    });
}

/// What a component that lists its exports has in addition.
pub mod listing {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package memnbd:guest;
            world listing-exports { export memnbd:block/listing@0.2.0; }
        ",
        with: { "memnbd:block/types@0.2.0": crate::bindings::memnbd::block::types },
        pub_export_macro: true,
        default_bindings_module: "memnbd_guest::bindings::listing",
    });
}

/// What a sharded backend has in addition.
pub mod sharding {
    wit_bindgen::generate!({
        path: "wit",
        inline: "
            package memnbd:sharded;
            world sharded {
                export memnbd:block/sharding@0.2.0;
            }
        ",
        pub_export_macro: true,
        default_bindings_module: "memnbd_guest::bindings::sharding",
    });
}

/// The random numbers of WASI. The interface is complete, for it is merged with what the standard
/// library declares.
pub mod random {
    wit_bindgen::generate!({
        inline: "
            package memnbd:random;
            world random { import wasi:random/random@0.2.0; }
            package wasi:random@0.2.0 {
                interface random {
                    get-random-bytes: func(len: u64) -> list<u8>;
                    get-random-u64: func() -> u64;
                }
            }
        ",
        generate_all,
    });
}

/// The clocks of WASI. The interfaces are complete, for they are merged with what the standard library
/// declares.
pub mod clocks {
    wit_bindgen::generate!({
        inline: "
            package memnbd:clocks;
            world clocks {
                import wasi:clocks/wall-clock@0.2.0;
                import wasi:clocks/monotonic-clock@0.2.0;
            }
            package wasi:io@0.2.0 {
                interface poll {
                    resource pollable {
                        ready: func() -> bool;
                        block: func();
                    }
                    poll: func(in: list<borrow<pollable>>) -> list<u32>;
                }
            }
            package wasi:clocks@0.2.0 {
                interface wall-clock {
                    record datetime { seconds: u64, nanoseconds: u32 }
                    now: func() -> datetime;
                    resolution: func() -> datetime;
                }
                interface monotonic-clock {
                    use wasi:io/poll@0.2.0.{pollable};
                    type instant = u64;
                    type duration = u64;
                    now: func() -> instant;
                    resolution: func() -> duration;
                    subscribe-instant: func(when: instant) -> pollable;
                    subscribe-duration: func(when: duration) -> pollable;
                }
            }
        ",
        generate_all,
    });
}
