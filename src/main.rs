fn main() -> std::process::ExitCode {
    open_prime::cli::main()
}
