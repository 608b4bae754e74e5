//! The assetfs command.

fn main() -> std::process::ExitCode {
    assetfs::cli::main()
}
