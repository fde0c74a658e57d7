//! An opt-in exchange container encoded with [abomonation](https://docs.rs/abomonation): [`AbomVec`].
//!
//! Workers of different processes exchange rows as bytes. By default timely encodes a `Vec` of rows with bincode.
//! This container copies the rows as they lie in memory, text after them; the receiver sets the pointers anew, and
//! allocates once per container instead of once per row:
//!
//! ```text
//!   sender             wire                                 receiver
//!   Vec<R> ──encode──▶ fingerprint │ rows │ text │ CRC32C ──▶ check, copy to an aligned slab, exhume ──▶ &R
//! ```
//!
//! # Why it is not the default
//! - [RUSTSEC-2021-0120](https://rustsec.org/advisories/RUSTSEC-2021-0120): abomonation is unsound on bytes that are
//!   not its own, nobody maintains it, and no version is patched. Bytes of a stranger are undefined behaviour here.
//! - It aborts debug builds on honest data: what follows a string is not aligned, so a `Vec<u64>` behind a string
//!   is refused by the standard library's checks. [`AbomRow`] therefore admits flat rows only.
//! - It puts heap addresses on the wire, and the padding of rows that have any. [`AbomRow`] refuses rows with padding;
//!   the addresses remain, and a reader of the network learns them. The bytes differ from run to run.
//! - The layout of a row is that of this exact binary: compiler, target, flags. Peers compare [`fingerprint`].
//! - It wins little: timely's buffers are immutable, so the receiver copies each container once before it patches it.
//!   `cargo bench --bench operator --features abomonation` compares it with timely's default and with a columnar
//!   container, which is safe.
//!
//! Use it between the processes of one trusted binary on a private, authenticated network. Never for checkpoints,
//! journals, or anything that another build will read.
//!
//! # Usage
//!
//! ```
//! use timely::dataflow::InputHandle;
//! use timely::dataflow::channels::pact::ExchangeCore;
//! use timely::dataflow::operators::{Operator, Probe};
//! use timely::container::CapacityContainerBuilder;
//! use timely_agents_abomonation::{AbomVec, flat_row};
//!
//! #[derive(Clone, Debug)]
//! struct Order {
//!     customer: u64,
//!     cents: u64,
//!     item: String,
//! }
//! flat_row!(Order { customer, cents, item });
//!
//! timely::execute_directly(|worker| {
//!     let mut input = InputHandle::<u64, CapacityContainerBuilder<AbomVec<Order>>>::new_with_builder();
//!     let probe = worker.dataflow(|scope| {
//!         let by_customer = ExchangeCore::<CapacityContainerBuilder<AbomVec<Order>>, _>::new(|order| order.customer);
//!         input
//!             .to_stream(scope)
//!             .unary::<CapacityContainerBuilder<Vec<u64>>, _, _, _>(by_customer, "Sum", |_, _| {
//!                 |input, output| {
//!                     input.for_each_time(|time, data| {
//!                         let cents: u64 = data.flat_map(|orders| orders.iter().map(|order| order.cents)).sum();
//!                         output.session(&time).give(cents);
//!                     });
//!                 }
//!             })
//!             .probe()
//!             .0
//!     });
//!     input.send(Order { customer: 7, cents: 350, item: "tea".to_owned() });
//!     input.advance_to(1);
//!     worker.step_or_park_while(None, || probe.less_than(&1));
//! });
//! ```
//!
//! # Guarantees
//! - A container that changed on the way is found by its CRC32C and its lengths before a row of it is read; the
//!   receiving worker then panics, because timely's decoder cannot return an error. The process's supervisor turns a
//!   worker's panic into a failed job, which restarts from its checkpoint.
//! - A container of another build or of another row is found by its fingerprint, and panics likewise.
//! - Every row that [`AbomRow`] admits is read at its alignment, whatever the alignment of the receive buffer.
//!
//! # What it does not do
//! - It does not authenticate peers and does not detect a *forged* container: a CRC is no signature.
//! - It does not check that text is UTF-8; the sender's `String` was.
//! - It does not compare binaries. [`fingerprint`] covers compiler, target, flags and row; two builds of different
//!   sources may share it where the row's fields agree.

mod container;
mod fingerprint;
mod row;
mod slab;
mod wire;

pub use container::{AbomVec, Drain};
pub use fingerprint::fingerprint;
pub use row::{AbomRow, Field};

/// What [`flat_row!`] expands to; not for use by hand.
#[doc(hidden)]
pub mod expansion {
    pub use crate::row::{field_of, shape};
    pub use abomonation::Abomonation;
}
