//! The assetfs command.

fn main() {}
