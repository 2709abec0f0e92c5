//! The network between the hosts when it is not healthy: a switch of our own with cuts, delay and loss.
//!
//! While no fault is set, the kernel's bridge joins the hosts at full speed. With the first fault the ports
//! leave the bridge and [`driver`] forwards every frame by the rules of [`fabric`]; with the last one healed
//! they return.

pub mod driver;
pub mod fabric;
pub mod fault;
pub mod port;
