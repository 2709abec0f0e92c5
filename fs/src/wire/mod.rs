//! What the two nodes say to each other, as typed messages and as bytes.

pub mod message;
