//! `hubweave`: see [`hubweave::cli`].

fn main() -> std::process::ExitCode {
    hubweave::cli::main()
}
