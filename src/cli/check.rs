//! `check`: configuration, contracts, grants and decision tables, every error at once.

use std::{path::Path, sync::Arc};

use serde_json::json;

use super::{
    Place,
    outcome::{Exit, Failure, tell_error},
    request::errors_json,
    show,
};
use crate::{
    clock::Clock,
    config::{self, Config},
    grant::{ConfigError, tables},
    listen::Certificate,
    reach,
    server::{compile, read_contracts},
    workload::{self, Workloads},
};

/// What was looked at.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) errors: Vec<ConfigError>,
    tools: usize,
    policies: usize,
    cases: usize,
}

pub(super) fn check(place: &Place) -> Result<Exit, Failure> {
    let file = place.file();
    let checked = match config::load(&file) {
        Ok(config) => look(&config)?,
        // grants are typed by the upstreams that the file names: what they are without it would be noise
        Err(errors) => Checked { errors, ..Checked::default() },
    };
    let found = checked.errors.len();
    let errors = errors_json(&checked.errors);
    if place.json {
        let (tools, policies, cases) = (checked.tools, checked.policies, checked.cases);
        show::line(
            &json!({"ok": found == 0, "errors": errors, "tools": tools, "policies": policies, "cases": cases})
                .to_string(),
        );
    } else {
        errors.iter().for_each(tell_error);
        let what = format!("{} tools, {} policies, {} cases", checked.tools, checked.policies, checked.cases);
        match found {
            0 => show::line(&format!("all is well: {what}")),
            1 => eprintln!("1 error in {}", super::short(&file)),
            _ => eprintln!("{found} errors in the house of {}", super::short(&file)),
        }
    }
    Ok(if found == 0 { Exit::Done } else { Exit::No })
}

/// Looks at everything beside the configuration.
pub(super) fn look(config: &Config) -> Result<Checked, Failure> {
    let contracts = read_contracts(&config.folder)?;
    let mut checked = Checked::default();
    for files in [&config.server.tls, &config.console.tls].into_iter().flatten() {
        checked.errors.extend(Certificate::open(files.clone()).err());
    }
    let resolver: Arc<dyn reach::Resolver> = Arc::new(reach::System);
    if let Err(workload::NotOpened::Config(errors)) = Workloads::open(&config.identity, &config.endpoint(), &resolver) {
        checked.errors.extend(errors);
    }
    let (catalog, grants) = match compile(config, &contracts) {
        Ok(compiled) => compiled,
        Err(errors) => {
            // the tools are told of all the same
            let unasked = config.upstreams.keys().map(|name| (name.clone(), None)).collect();
            let catalog = crate::contract::Catalog::new(&contracts, &unasked);
            checked.contracts(config, &catalog);
            checked.errors.extend(errors);
            return Ok(checked);
        }
    };
    checked.contracts(config, &catalog);
    checked.policies = grants.len();
    for file in tables_in(&config.grants()) {
        let ran = match std::fs::read_to_string(&file) {
            Ok(text) => tables::run(&grants, &catalog, &file, &text, Clock::System.now()),
            Err(error) => Err(vec![whole(&file, format!("cannot be read: {error}"), None)]),
        };
        match ran {
            Ok(cases) => {
                checked.cases += cases.len();
                checked.errors.extend(cases.iter().filter(|case| !case.passed).map(|case| ConfigError {
                    file: file.clone(),
                    line: case.line,
                    column: 0,
                    problem: format!("{}: expected `{}`, decided `{}`", case.about, case.expected, case.decided),
                    hint: Some("`countersign grant explain` says which policies decide".to_owned()),
                }));
            }
            Err(errors) => checked.errors.extend(errors),
        }
    }
    Ok(checked)
}

impl Checked {
    /// Contracts that cannot be used are errors; the file of each is named as it lies.
    fn contracts(&mut self, config: &Config, catalog: &crate::contract::Catalog) {
        self.tools = catalog.tools().count();
        for quarantined in catalog.quarantined() {
            let (_, problem) = quarantined.why.told();
            let file = config.schemas().join(quarantined.upstream.as_str()).join(format!("{}.json", quarantined.tool));
            let hint = "register the tool again, or correct the file".to_owned();
            self.errors.push(whole(&file, problem, Some(hint)));
        }
    }
}

fn whole(file: &Path, problem: String, hint: Option<String>) -> ConfigError {
    ConfigError { file: file.to_owned(), line: 0, column: 0, problem, hint }
}

/// `grants/*.table`, in the order of their names.
fn tables_in(folder: &Path) -> Vec<std::path::PathBuf> {
    let listed = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = listed.filter(|path| path.extension().is_some_and(|ending| ending == "table")).collect();
    files.sort();
    files
}
