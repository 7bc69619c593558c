//! The Docker runtime with a real engine; skipped, and it says so, where there is none.
