//! The program: the command line and nothing else, and the allocator that suits the process which runs for months.

/// The one of those that were measured which gives memory back when connections close (README, Figures).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    open_prime::cli::main()
}
