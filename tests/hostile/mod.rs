//! Hostile components and hostile clients against the real program.
//!
//! Each test has two tenants in one server: one attacks, the other one is the neighbour, whose data
//! must stay as it is and whose requests must be answered meanwhile. The attack may fail, or the
//! attacker's own disk; the process and the neighbour must not. Bounds are far from what a quiet
//! machine needs: `make attacks` measures, these tests decide.

mod clients;
mod features;
mod floods;
mod memory;
mod processor;
mod quotas;
mod starts;
mod tenants;
