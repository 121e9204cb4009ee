//! update-img
fn main() {}
