use crate::model::certificate::*;
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub files: CertificateFiles,
    pub issuer: Issuer,
    pub validity: Validity,
}
