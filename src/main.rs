//! The command.

fn main() -> std::process::ExitCode {
    afterimage::cli::main()
}
