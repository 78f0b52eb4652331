//! Random worlds, policies and packets for equivalence tests; only with the feature `testing`.
//!
//! Everything follows from a seed: the same seed gives the same world, policy and packets, so a
//! failure is reported by its seed.
//!
//! ```
//! use felid_compile::testing::{Rng, Shape, World};
//! use felid_compile::{Direction, compile, reference};
//!
//! let mut rng = Rng::new(42);
//! let world = World::random(&mut rng);
//! let policy = world.policy(&mut rng, Shape::Small);
//! let mut counters = felid_compile::testing::NumberedCounters::default();
//! let program = compile(&policy, Direction::Ingress, &world.own(), &world, &mut counters);
//! let packet = world.packet(&mut rng, &policy, Direction::Ingress);
//! let expected = reference::evaluate(&policy, &packet, &world);
//! # let _ = (program, expected);
//! ```

mod long;
mod packet;
mod policy;
mod rng;
mod world;

pub use policy::Shape;
pub use rng::Rng;
pub use world::{NumberedCounters, World};
