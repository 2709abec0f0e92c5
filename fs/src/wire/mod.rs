//! What the two nodes say to each other, as typed messages and as bytes.
//!
//! [`message`] has the types of a session, [`bulk`] those of a copy and, with [`survey`], of a verification, [`limits`] what each field may hold, [`frame`] the bytes.

pub mod bulk;
pub mod frame;
pub mod limits;
pub mod message;
pub mod survey;

#[cfg(test)]
mod samples;
