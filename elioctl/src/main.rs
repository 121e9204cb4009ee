//! elioctl
fn main() {}
