//! Disks of a host that are smaller or less patient than the machine's own: an ext4 on a loop device, and one
//! whose image forgets what was not flushed when the power goes.

pub mod ext4;
pub mod loop_device;
pub mod unflushed;
pub mod volatile;
