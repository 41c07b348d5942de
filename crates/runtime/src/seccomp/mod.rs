//! Seccomp: from a profile (our own, or a file in the format that all runtimes share) to filters for the kernel.
//!
//! A filter of `seccompiler` knows two outcomes, a profile any number. So a profile becomes several filters: one that lets through
//! everything that a rule is about and gives the default to the rest, then one for each other outcome. The kernel runs all of them and takes
//! the most severe answer, and of equals the newest. A profile that cannot be honoured exactly is an error, never a weaker filter.

mod default;
mod syscalls;

use std::collections::BTreeMap;
use std::path::Path;

use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
use serde::Deserialize;

use crate::spec::SeccompChoice;

/// Why a profile cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// Its file cannot be read.
    #[error("failed to load seccomp profile {path:?}: {source}")]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It makes no sense, or asks for what this runtime does not do.
    #[error("invalid seccomp profile: {0}")]
    Invalid(String),
}

/// What happens at a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It goes through.
    Allow,
    /// It goes through and is logged.
    Log,
    /// A tracer decides.
    Trace(u32),
    /// It fails.
    Errno(u32),
    /// SIGSYS.
    Trap,
    /// The thread ends.
    KillThread,
    /// The process ends.
    KillProcess,
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Unequal.
    NotEqual,
    /// Less.
    Less,
    /// Less or equal.
    LessEqual,
    /// Equal.
    Equal,
    /// Greater or equal.
    GreaterEqual,
    /// Greater.
    Greater,
    /// Equal to the second value after masking with the first.
    MaskedEqual,
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument {
    /// 0..6.
    pub index: u8,
    /// How.
    pub comparison: Comparison,
    /// With what.
    pub value: u64,
    /// Second operand of [`Comparison::MaskedEqual`].
    pub second: u64,
}

/// What happens at some system calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Names of the calls.
    pub names: Vec<String>,
    /// What happens.
    pub action: Action,
    /// When all of these hold.
    pub arguments: Vec<Argument>,
}

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What happens at calls without a rule.
    pub default: Action,
    /// The rest.
    pub rules: Vec<Rule>,
}

/// Filters for a container, each as the kernel reads it, in the order of installation.
pub fn compile(choice: &SeccompChoice, root: &Path, capabilities: &[String]) -> Result<Vec<Vec<u8>>, SeccompError> {
    let profile = match choice {
        SeccompChoice::RuntimeDefault => default::profile(capabilities),
        SeccompChoice::Localhost(path) => {
            let path = root.join(path);
            let text = std::fs::read(&path).map_err(|source| SeccompError::Read { path, source })?;
            parse(&text)?
        }
    };
    filters(&profile)
}

fn invalid(message: impl Into<String>) -> SeccompError {
    SeccompError::Invalid(message.into())
}

/// Rules of a filter by call number; an empty list matches always.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn filters(profile: &Profile) -> Result<Vec<Vec<u8>>, SeccompError> {
    let mut others: Vec<Action> =
        profile.rules.iter().map(|rule| rule.action).filter(|action| *action != Action::Allow && *action != profile.default).collect();
    others.sort_unstable();
    others.dedup();
    let mut filters = Vec::new();
    if profile.default != Action::Allow {
        let lifted = rules(profile.rules.iter().filter(|rule| rule.action != profile.default))?;
        filters.push(assemble(lifted, profile.default, Action::Allow)?);
    }
    for action in others {
        filters.push(assemble(rules(profile.rules.iter().filter(|rule| rule.action == action))?, Action::Allow, action)?);
    }
    Ok(filters)
}

fn rules<'a>(wanted: impl Iterator<Item = &'a Rule>) -> Result<Rules, SeccompError> {
    let mut rules = Rules::new();
    for rule in wanted {
        let conditions = conditions(&rule.arguments)?;
        // Profiles name the calls of all architectures; those that this one does not have cannot be made here.
        for number in rule.names.iter().filter_map(|name| syscalls::number(name)) {
            let known = rules.contains_key(&number);
            let chain = rules.entry(number).or_default();
            match &conditions {
                _ if known && chain.is_empty() => {}
                None => chain.clear(),
                Some(conditions) => chain.extend(conditions.iter().cloned()),
            }
        }
    }
    Ok(rules)
}

/// The alternatives under which a rule matches; none means always. Several conditions on one argument are alternatives, as in other runtimes.
fn conditions(arguments: &[Argument]) -> Result<Option<Vec<SeccompRule>>, SeccompError> {
    if arguments.is_empty() {
        return Ok(None);
    }
    let all: Vec<SeccompCondition> = arguments.iter().map(condition).collect::<Result<_, _>>()?;
    let mut indexes: Vec<u8> = arguments.iter().map(|argument| argument.index).collect();
    indexes.sort_unstable();
    let repeated = indexes.windows(2).any(|pair| pair[0] == pair[1]);
    let sets: Vec<Vec<SeccompCondition>> = if repeated { all.into_iter().map(|one| vec![one]).collect() } else { vec![all] };
    sets.into_iter().map(|set| SeccompRule::new(set).map_err(|error| invalid(error.to_string()))).collect::<Result<_, _>>().map(Some)
}

fn condition(argument: &Argument) -> Result<SeccompCondition, SeccompError> {
    let (operator, value) = match argument.comparison {
        Comparison::NotEqual => (SeccompCmpOp::Ne, argument.value),
        Comparison::Less => (SeccompCmpOp::Lt, argument.value),
        Comparison::LessEqual => (SeccompCmpOp::Le, argument.value),
        Comparison::Equal => (SeccompCmpOp::Eq, argument.value),
        Comparison::GreaterEqual => (SeccompCmpOp::Ge, argument.value),
        Comparison::Greater => (SeccompCmpOp::Gt, argument.value),
        Comparison::MaskedEqual => (SeccompCmpOp::MaskedEq(argument.value), argument.second),
    };
    SeccompCondition::new(argument.index, SeccompCmpArgLen::Qword, operator, value).map_err(|error| invalid(error.to_string()))
}

fn action(action: Action) -> SeccompAction {
    match action {
        Action::Allow => SeccompAction::Allow,
        Action::Log => SeccompAction::Log,
        Action::Trace(data) => SeccompAction::Trace(data),
        Action::Errno(code) => SeccompAction::Errno(code),
        Action::Trap => SeccompAction::Trap,
        Action::KillThread => SeccompAction::KillThread,
        Action::KillProcess => SeccompAction::KillProcess,
    }
}

fn assemble(rules: Rules, otherwise: Action, matched: Action) -> Result<Vec<u8>, SeccompError> {
    let arch: TargetArch =
        std::env::consts::ARCH.try_into().map_err(|_| invalid(format!("seccomp is not supported on {}", std::env::consts::ARCH)))?;
    let filter = SeccompFilter::new(rules, action(otherwise), action(matched), arch).map_err(|error| invalid(error.to_string()))?;
    let program: seccompiler::BpfProgram = filter.try_into().map_err(|error: seccompiler::BackendError| invalid(error.to_string()))?;
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend_from_slice(&instruction.code.to_ne_bytes());
        bytes.extend_from_slice(&[instruction.jt, instruction.jf]);
        bytes.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    Ok(bytes)
}

/// A profile's file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    listener_path: String,
    #[serde(default)]
    syscalls: Vec<FileRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileRule {
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<FileArgument>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileArgument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Reads a profile's file.
pub fn parse(text: &[u8]) -> Result<Profile, SeccompError> {
    let file: File = serde_json::from_slice(text).map_err(|error| invalid(error.to_string()))?;
    if !file.listener_path.is_empty() {
        return Err(invalid("a listener is not supported"));
    }
    if let Some(flag) = file.flags.iter().find(|flag| *flag != "SECCOMP_FILTER_FLAG_LOG" && *flag != "SECCOMP_FILTER_FLAG_TSYNC") {
        return Err(invalid(format!("flag {flag:?} is not supported")));
    }
    let native = match std::env::consts::ARCH {
        "x86_64" => "SCMP_ARCH_X86_64",
        "aarch64" => "SCMP_ARCH_AARCH64",
        "riscv64" => "SCMP_ARCH_RISCV64",
        other => return Err(invalid(format!("seccomp is not supported on {other}"))),
    };
    if !file.architectures.is_empty() && !file.architectures.iter().any(|arch| arch == native) {
        return Err(invalid(format!("it is not for this architecture ({native})")));
    }
    let rules = file.syscalls.into_iter().map(|rule| {
        Ok(Rule {
            action: parse_action(&rule.action, rule.errno_ret)?,
            arguments: rule.args.unwrap_or_default().iter().map(parse_argument).collect::<Result<_, _>>()?,
            names: rule.names,
        })
    });
    Ok(Profile { default: parse_action(&file.default_action, file.default_errno_ret)?, rules: rules.collect::<Result<_, SeccompError>>()? })
}

fn parse_action(name: &str, errno: Option<u32>) -> Result<Action, SeccompError> {
    let errno = errno.unwrap_or(libc::EPERM.cast_unsigned());
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_TRACE" => Action::Trace(errno),
        "SCMP_ACT_ERRNO" => Action::Errno(errno),
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        other => return Err(invalid(format!("action {other:?} is not supported"))),
    })
}

fn parse_argument(argument: &FileArgument) -> Result<Argument, SeccompError> {
    if argument.index > 5 {
        return Err(invalid(format!("argument {} of a system call", argument.index)));
    }
    let comparison = match argument.op.as_str() {
        "SCMP_CMP_NE" => Comparison::NotEqual,
        "SCMP_CMP_LT" => Comparison::Less,
        "SCMP_CMP_LE" => Comparison::LessEqual,
        "SCMP_CMP_EQ" => Comparison::Equal,
        "SCMP_CMP_GE" => Comparison::GreaterEqual,
        "SCMP_CMP_GT" => Comparison::Greater,
        "SCMP_CMP_MASKED_EQ" => Comparison::MaskedEqual,
        other => return Err(invalid(format!("comparison {other:?}"))),
    };
    Ok(Argument { index: argument.index, comparison, value: argument.value, second: argument.value_two })
}

#[cfg(test)]
mod tests;
