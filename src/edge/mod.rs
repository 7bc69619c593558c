#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("x")]
    X,
}
pub fn main_loop(_: &std::path::Path, _: bool) -> Result<(), EdgeError> {
    Ok(())
}
