//! Writes `proto/runtime_v1.proto` from the table of facts about the wire (`reference/wire/cri.tsv`).
//!
//! The definition in the repository is our own: it carries names, numbers and types, which is all that the wire knows. It is written by this
//! program and never by hand, so that a new release of the interface is a new table and one run:
//! `cargo run -p ferrokube-cri --example from_facts -- ../shared/reference/wire/cri.tsv crates/cri/proto/runtime_v1.proto`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What the table says of one message: its fields, and the enums that live inside it.
#[derive(Default)]
struct Message {
    fields: Vec<String>,
    enums: BTreeMap<String, Vec<String>>,
}

/// Everything in the table, in the order in which it first appears.
#[derive(Default)]
struct Definition {
    order: Vec<String>,
    messages: BTreeMap<String, Message>,
    enums: Vec<(String, Vec<String>)>,
    services: Vec<(String, Vec<String>)>,
}

impl Definition {
    fn message(&mut self, name: &str) -> &mut Message {
        if !self.messages.contains_key(name) {
            self.order.push(name.to_owned());
        }
        self.messages.entry(name.to_owned()).or_default()
    }

    /// Adds one row of the table.
    fn add(&mut self, columns: &[&str]) -> Result<(), String> {
        let subject = columns.get(1).copied().unwrap_or_default();
        match (subject.split_once(' '), columns) {
            (Some(("ENUM", name)), [_, _, value, number]) => {
                let line = format!("{value} = {number};");
                match name.split_once('.') {
                    Some((owner, inner)) => self.message(owner).enums.entry(inner.to_owned()).or_default().push(line),
                    None => push_group(&mut self.enums, name, line),
                }
            }
            (Some(("RPC", service)), [_, _, method, request, response]) => {
                push_group(&mut self.services, service, format!("rpc {method}({request}) returns ({response});"));
            }
            (None, [_, message, _, _, "empty", _]) => {
                self.message(message);
            }
            (None, [_, message, field, number, label, kind]) => {
                let kind = match *label {
                    "singular" => (*kind).to_owned(),
                    "repeated" => format!("repeated {kind}"),
                    "map" => format!("map<{}>", kind.replace(',', ", ")),
                    other => return Err(format!("unknown label {other:?}")),
                };
                self.message(message).fields.push(format!("{kind} {field} = {number};"));
            }
            _ => return Err(format!("a row of {} columns", columns.len())),
        }
        Ok(())
    }

    fn render(&self) -> String {
        let mut out = String::from(
            "// The Container Runtime Interface v1 as Kubernetes 1.36 speaks it: names, numbers and types.\n\
             // Written by examples/from_facts.rs from a table of facts; do not edit.\n\
             syntax = \"proto3\";\npackage runtime.v1;\n",
        );
        for (name, rpcs) in &self.services {
            block(&mut out, "", "service", name, rpcs);
        }
        for (name, values) in &self.enums {
            block(&mut out, "", "enum", name, values);
        }
        for name in &self.order {
            let message = &self.messages[name];
            let _ = write!(out, "\nmessage {name} {{");
            for (inner, values) in &message.enums {
                block(&mut out, "  ", "enum", inner, values);
            }
            if !message.fields.is_empty() || !message.enums.is_empty() {
                out.push('\n');
            }
            for field in &message.fields {
                let _ = writeln!(out, "  {field}");
            }
            out.push_str("}\n");
        }
        out
    }
}

fn push_group(groups: &mut Vec<(String, Vec<String>)>, name: &str, line: String) {
    match groups.iter_mut().find(|(known, _)| known == name) {
        Some((_, lines)) => lines.push(line),
        None => groups.push((name.to_owned(), vec![line])),
    }
}

fn block(out: &mut String, indent: &str, keyword: &str, name: &str, lines: &[String]) {
    let _ = writeln!(out, "\n{indent}{keyword} {name} {{");
    for line in lines {
        let _ = writeln!(out, "{indent}  {line}");
    }
    let _ = writeln!(out, "{indent}}}");
}

/// The definition that a table of facts stands for.
pub fn definition_of(facts: &str) -> Result<String, String> {
    let mut definition = Definition::default();
    for (number, line) in facts.lines().enumerate() {
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        let columns: Vec<&str> = line.split('\t').collect();
        definition.add(&columns).map_err(|error| format!("line {}: {error}", number + 1))?;
    }
    Ok(definition.render())
}

#[allow(dead_code, reason = "the test includes this file for the function above")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(facts), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err("usage: from_facts FACTS.tsv TARGET.proto".into());
    };
    let definition = definition_of(&std::fs::read_to_string(&facts)?).map_err(|error| format!("{facts}: {error}"))?;
    std::fs::write(target, definition)?;
    Ok(())
}
