use crate::model::machine::Machine;
use crate::model::name::ProjectName;
use crate::model::project::Project;
use std::collections::BTreeMap;
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conf {
    pub machine: Machine,
    pub projects: BTreeMap<ProjectName, Project>,
}
