//! Device rules on cgroup v2, where they are a small program that the kernel asks at every access.
//!
//! libcontainer writes them on v1 and, built without BPF, leaves them out on v2 without a word: a container with CAP_MKNOD could then make
//! and open the node's disks. So we attach the program, before anything is in the cgroup.

use std::io::{Error, Result};

use serde_json::Value;

use super::{ROOT, folder};
use crate::sys;

/// Access bits, as the kernel has them.
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;

/// One rule of `linux.resources.devices`. None matches everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// 1 for block, 2 for character devices.
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// What every container may use: kind, major, minor, access. As on v1, where libcontainer adds it.
const ALWAYS: [(u32, Option<u32>, Option<u32>, u32); 11] = [
    (2, None, None, MKNOD),
    (1, None, None, MKNOD),
    (2, Some(1), Some(3), MKNOD | READ | WRITE),
    (2, Some(1), Some(5), MKNOD | READ | WRITE),
    (2, Some(1), Some(7), MKNOD | READ | WRITE),
    (2, Some(1), Some(8), MKNOD | READ | WRITE),
    (2, Some(1), Some(9), MKNOD | READ | WRITE),
    (2, Some(5), Some(0), MKNOD | READ | WRITE),
    (2, Some(5), Some(1), MKNOD | READ | WRITE),
    (2, Some(5), Some(2), MKNOD | READ | WRITE),
    (2, Some(136), None, MKNOD | READ | WRITE),
];

/// Makes the cgroup of a container on v2, with the controllers of its parents enabled and its device rules in force.
pub fn prepare_v2(cgroup: &str, rules: &Value) -> Result<()> {
    let target = folder("", cgroup);
    make_with_controllers(cgroup)?;
    attach(&target, &program(&parse(rules)?))
}

/// Attaches a program to the folder of a cgroup.
fn attach(target: &std::path::Path, program: &[u64]) -> Result<()> {
    let folder = std::fs::File::open(target)?;
    let program = sys::load_device_program(program).map_err(|error| say("loading the device rules", error))?;
    sys::attach_device_program(&folder, &program).map_err(|error| say("attaching the device rules", error))
}

fn say(what: &str, error: nix::errno::Errno) -> Error {
    let error = Error::from(error);
    Error::new(error.kind(), format!("{what}: {error}"))
}

/// Each level on the way down gets all controllers, as far as it can; a limit that needs a missing one fails when it is set.
fn make_with_controllers(cgroup: &str) -> Result<()> {
    let root = std::path::Path::new(ROOT);
    let available = std::fs::read_to_string(root.join("cgroup.controllers"))?;
    let mut at = root.to_owned();
    for part in cgroup.split('/').filter(|part| !part.is_empty()) {
        for controller in available.split_whitespace() {
            let _ = std::fs::write(at.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        at.push(part);
        match std::fs::create_dir(&at) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn parse(rules: &Value) -> Result<Vec<Rule>> {
    let mut parsed = Vec::new();
    for rule in rules.as_array().map(Vec::as_slice).unwrap_or_default() {
        let number = |name: &str| rule[name].as_u64().and_then(|number| u32::try_from(number).ok());
        let kind = match rule["type"].as_str() {
            None | Some("a") => None,
            Some("b") => Some(1),
            Some("c") => Some(2),
            Some(other) => return Err(Error::other(format!("device rule of type {other:?}"))),
        };
        let mut access = 0;
        for letter in rule["access"].as_str().unwrap_or("rwm").chars() {
            access |= match letter {
                'm' => MKNOD,
                'r' => READ,
                'w' => WRITE,
                other => return Err(Error::other(format!("device access {other:?}"))),
            };
        }
        parsed.push(Rule { allow: rule["allow"] == true, kind, major: number("major"), minor: number("minor"), access });
    }
    let always = ALWAYS.iter().map(|&(kind, major, minor, access)| Rule { allow: true, kind: Some(kind), major, minor, access });
    parsed.extend(always);
    Ok(parsed)
}

/// An instruction: operation, target and source register, jump distance, constant.
fn instruction(code: u8, target: u8, source: u8, offset: i16, constant: i32) -> u64 {
    u64::from(code)
        | u64::from(target & 0xf | source << 4) << 8
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(constant.cast_unsigned()) << 32
}

/// The rules as a program: the last one that matches decides, so they are asked last first. What no rule matches is denied.
fn program(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        instruction(0x61, 2, 1, 0, 0),      // r2 = access and kind
        instruction(0xbf, 3, 2, 0, 0),      // r3 = r2
        instruction(0x54, 2, 0, 0, 0xffff), // r2 = kind
        instruction(0x74, 3, 0, 0, 16),     // r3 = access
        instruction(0x61, 4, 1, 4, 0),      // r4 = major
        instruction(0x61, 5, 1, 8, 0),      // r5 = minor
    ];
    for rule in rules.iter().rev() {
        let mut tests = Vec::new();
        for (register, wanted) in [(2, rule.kind), (4, rule.major), (5, rule.minor)] {
            if let Some(wanted) = wanted {
                tests.push((register, wanted.cast_signed()));
            }
        }
        // An allowed access must be covered as a whole; a denied one is denied for any part of it.
        let (mask, covered) = if rule.allow { (7 & !rule.access, true) } else { (rule.access, false) };
        let mut body = Vec::new();
        if mask != 0 {
            body.push(instruction(0xbf, 0, 3, 0, 0)); // r0 = access
            body.push(instruction(0x54, 0, 0, 0, mask.cast_signed())); // r0 &= mask
            // Not covered, or nothing denied: on to the next rule, past the answer.
            body.push(instruction(if covered { 0x55 } else { 0x15 }, 0, 0, 2, 0));
        }
        body.push(instruction(0xb7, 0, 0, 0, i32::from(rule.allow)));
        body.push(instruction(0x95, 0, 0, 0, 0));
        let total = tests.len() + body.len();
        for (done, (register, wanted)) in tests.into_iter().enumerate() {
            let distance = i16::try_from(total - done - 1).unwrap_or(0);
            program.push(instruction(0x55, register, 0, distance, wanted));
        }
        program.extend(body);
    }
    program.push(instruction(0xb7, 0, 0, 0, 0));
    program.push(instruction(0x95, 0, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Runs a program as the kernel would.
    fn allowed(program: &[u64], kind: u32, major: u32, minor: u32, access: u32) -> bool {
        let mut registers = [0u64; 11];
        let context = [kind | access << 16, major, minor];
        let mut at = 0usize;
        loop {
            let raw = program[at];
            let (code, target, source) = (raw as u8, (raw >> 8 & 0xf) as usize, (raw >> 12 & 0xf) as usize);
            let (offset, constant) = ((raw >> 16) as u16 as i16, (raw >> 32) as u32);
            let mut jump = |holds: bool| at = at.strict_add_signed(if holds { isize::from(offset) } else { 0 });
            match code {
                0x61 => registers[target] = u64::from(context[offset as usize / 4]),
                0xbf => registers[target] = registers[source],
                0x54 => registers[target] = u64::from(registers[target] as u32 & constant),
                0x74 => registers[target] = u64::from((registers[target] as u32) >> constant),
                0xb7 => registers[target] = u64::from(constant),
                0x55 => jump(registers[target] != u64::from(constant)),
                0x15 => jump(registers[target] == u64::from(constant)),
                0x95 => return registers[0] != 0,
                other => panic!("instruction {other:#x}"),
            }
            at += 1;
        }
    }

    fn ordinary() -> Vec<u64> {
        let rules = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": 8, "minor": 1, "access": "r"},
        ]);
        program(&parse(&rules).expect("rules"))
    }

    #[test]
    fn what_is_not_allowed_is_denied() {
        let rules = ordinary();
        for (kind, major, minor, access, expected) in [
            (2, 1, 3, READ | WRITE, true),
            (2, 136, 7, READ | WRITE, true),
            (2, 1, 1, READ, false),
            (1, 8, 0, READ, false),
            (1, 8, 0, MKNOD, true),
            (1, 8, 1, READ, true),
            (1, 8, 1, READ | WRITE, false),
            (2, 8, 1, READ, false),
        ] {
            assert_eq!(allowed(&rules, kind, major, minor, access), expected, "{kind} {major}:{minor} {access}");
        }
        let all = program(&parse(&json!([{"allow": true, "access": "rwm"}])).expect("rules"));
        assert!(allowed(&all, 1, 8, 0, READ | WRITE));
        let except = program(&parse(&json!([{"allow": true}, {"allow": false, "type": "b", "major": 8, "access": "w"}])).expect("rules"));
        assert!(allowed(&except, 1, 8, 0, READ) && !allowed(&except, 1, 8, 0, READ | WRITE));
        assert!(parse(&json!([{"type": "x"}])).is_err());
    }

    #[test]
    fn the_kernel_takes_the_program() {
        // A v2 hierarchy, wherever it is: device programs need no controllers.
        let unified = if super::super::is_v2() { ROOT.to_owned() } else { format!("{ROOT}/unified") };
        let cgroup = std::path::Path::new(&unified).join(format!("ferrokube-test-{}", std::process::id()));
        if !nix::unistd::geteuid().is_root() || std::fs::create_dir(&cgroup).is_err() {
            eprintln!("SKIP: the_kernel_takes_the_program needs root and a cgroup v2 hierarchy");
            return;
        }
        let attached = attach(&cgroup, &ordinary());
        let script = format!("echo $$ > {}/cgroup.procs && : < /dev/null && ! (: < /dev/kmsg)", cgroup.display());
        let run = std::process::Command::new("sh").args(["-c", &script]).output();
        while std::fs::remove_dir(&cgroup).is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
            std::thread::yield_now();
        }
        attached.expect("the kernel takes it");
        let run = run.expect("a shell");
        assert!(run.status.success() && String::from_utf8_lossy(&run.stderr).contains("not permitted"), "{run:?}");
    }
}
