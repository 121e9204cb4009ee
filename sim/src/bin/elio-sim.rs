//! elio-sim
fn main() {}
