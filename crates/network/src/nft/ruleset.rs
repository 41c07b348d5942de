//! A table as a value, and the transaction that turns one into another.
//!
//! `diff` is pure and touches only what differs: whole chains are rewritten (a chain is small), set elements one by one
//! (maps are big). The order of operations inside a transaction is the one the kernel needs: what is referenced exists
//! before it is referenced and goes after its last reference.

use super::expr::{Field, Rule, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Where a base chain hooks into the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To a local socket.
    Input,
    /// Through this node.
    Forward,
    /// From a local socket.
    Output,
    /// After routing.
    Postrouting,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Filter packets.
    Filter,
    /// Translate the first packet of a connection.
    Nat,
}

/// A chain: base chains have a place in the packet path, others are jumped to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Kind, hook and priority of a base chain.
    pub base: Option<(Kind, Hook, i32)>,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// What a set's elements carry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetKind {
    /// Nothing: membership only.
    Plain,
    /// A value.
    Map(Vec<Field>),
    /// A verdict.
    VerdictMap,
    /// Nothing; elements come from the packet path and go after a while.
    Dynamic(Duration),
}

/// Type of a set. Two sets of the same name in two models must have the same type: names carry what differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetSpec {
    /// Parts of the key.
    pub key: Vec<Field>,
    /// What elements carry.
    pub kind: SetKind,
}

/// What one element carries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// Nothing.
    None,
    /// Bytes, in whole words.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// A named set with the elements that are ours (dynamic ones are the kernel's).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Type.
    pub spec: SetSpec,
    /// Elements by key.
    pub elements: BTreeMap<Vec<u8>, Data>,
}

/// A whole table as a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Chains by name. Shared, so that unchanged ones compare by address.
    pub chains: BTreeMap<Arc<str>, Arc<Chain>>,
    /// Named sets and maps.
    pub sets: BTreeMap<Arc<str>, Set>,
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Create a set.
    AddSet(Arc<str>, SetSpec),
    /// Create an empty chain.
    AddChain(Arc<str>, Option<(Kind, Hook, i32)>),
    /// Remove elements by key.
    DeleteElements(Arc<str>, Vec<Vec<u8>>),
    /// Remove all rules of a chain.
    FlushChain(Arc<str>),
    /// Append the rules of a chain.
    AddRules(Arc<str>, Arc<Chain>),
    /// Add elements.
    AddElements(Arc<str>, Vec<(Vec<u8>, Data)>),
    /// Remove a set.
    DeleteSet(Arc<str>),
    /// Remove an empty chain.
    DeleteChain(Arc<str>),
}

/// Steps the kernel takes together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Steps in the order the kernel needs.
    pub ops: Vec<Op>,
}

impl RuleSet {
    /// Adds a base chain.
    pub fn base_chain(&mut self, name: &str, kind: Kind, hook: Hook, priority: i32, rules: Vec<Rule>) {
        self.chains.insert(name.into(), Arc::new(Chain { base: Some((kind, hook, priority)), rules }));
    }

    /// Adds a chain that is jumped to.
    pub fn chain(&mut self, name: &str, rules: Vec<Rule>) {
        self.chains.insert(name.into(), Arc::new(Chain { base: None, rules }));
    }

    /// Declares a set.
    pub fn set(&mut self, name: &str, key: &[Field], kind: SetKind) {
        let spec = SetSpec { key: key.to_vec(), kind };
        self.sets.insert(name.into(), Set { spec, elements: BTreeMap::new() });
    }

    /// The model after the transaction: what the kernel would hold.
    ///
    /// # Errors
    /// The step the kernel would refuse, in words.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), String> {
        for op in &transaction.ops {
            self.apply_op(op)?;
        }
        Ok(())
    }

    fn apply_op(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::AddSet(name, spec) => {
                let set = Set { spec: spec.clone(), elements: BTreeMap::new() };
                self.sets.insert(name.clone(), set).map_or(Ok(()), |_| Err(format!("set {name} exists")))
            }
            Op::AddChain(name, base) => {
                let chain = Arc::new(Chain { base: *base, rules: Vec::new() });
                self.chains.insert(name.clone(), chain).map_or(Ok(()), |_| Err(format!("chain {name} exists")))
            }
            Op::DeleteElements(name, keys) => {
                let set = self.sets.get_mut(name).ok_or_else(|| format!("no set {name}"))?;
                keys.iter().try_for_each(|key| set.elements.remove(key).map(drop).ok_or_else(|| format!("no element in {name}")))
            }
            Op::FlushChain(name) => self.set_rules(name, Vec::new()),
            Op::AddRules(name, chain) => self.set_rules(name, chain.rules.clone()),
            Op::AddElements(name, elements) => {
                let set = self.sets.get_mut(name).ok_or_else(|| format!("no set {name}"))?;
                elements.iter().try_for_each(|(key, data)| match set.elements.insert(key.clone(), data.clone()) {
                    Some(_) => Err(format!("element exists in {name}")),
                    None => Ok(()),
                })
            }
            Op::DeleteSet(name) => {
                let set = self.sets.remove(name).ok_or_else(|| format!("no set {name}"))?;
                if set.elements.is_empty() { Ok(()) } else { Err(format!("set {name} still has elements")) }
            }
            Op::DeleteChain(name) => {
                let chain = self.chains.remove(name).ok_or_else(|| format!("no chain {name}"))?;
                if chain.rules.is_empty() { Ok(()) } else { Err(format!("chain {name} still has rules")) }
            }
        }
    }

    fn set_rules(&mut self, name: &Arc<str>, rules: Vec<Rule>) -> Result<(), String> {
        let chain = self.chains.get_mut(name).ok_or_else(|| format!("no chain {name}"))?;
        *chain = Arc::new(Chain { base: chain.base, rules });
        Ok(())
    }
}

/// The transaction that turns `old` into `new`; empty when they are equal.
pub fn diff(old: &RuleSet, new: &RuleSet) -> Transaction {
    let mut ops = Vec::new();
    for (name, set) in new.sets.iter().filter(|(name, _)| !old.sets.contains_key(*name)) {
        ops.push(Op::AddSet(name.clone(), set.spec.clone()));
    }
    for (name, chain) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
        ops.push(Op::AddChain(name.clone(), chain.base));
    }
    for (name, set) in &old.sets {
        let keep = new.sets.get(name).map(|s| &s.elements);
        let gone = set.elements.iter().filter(|(key, data)| keep.and_then(|k| k.get(*key)) != Some(*data));
        push_some(&mut ops, gone.map(|(key, _)| key.clone()).collect(), |keys| Op::DeleteElements(name.clone(), keys));
    }
    for (name, chain) in &old.chains {
        let same = new.chains.get(name).is_some_and(|n| same_rules(chain, n));
        if !same && !chain.rules.is_empty() {
            ops.push(Op::FlushChain(name.clone()));
        }
    }
    for (name, chain) in &new.chains {
        let same = old.chains.get(name).is_some_and(|o| same_rules(o, chain));
        if !same && !chain.rules.is_empty() {
            ops.push(Op::AddRules(name.clone(), chain.clone()));
        }
    }
    for (name, set) in &new.sets {
        let have = old.sets.get(name).map(|s| &s.elements);
        let fresh = set.elements.iter().filter(|(key, data)| have.and_then(|h| h.get(*key)) != Some(*data));
        let fresh: Vec<_> = fresh.map(|(key, data)| (key.clone(), data.clone())).collect();
        push_some(&mut ops, fresh, |elements| Op::AddElements(name.clone(), elements));
    }
    ops.extend(old.sets.keys().filter(|n| !new.sets.contains_key(*n)).cloned().map(Op::DeleteSet));
    ops.extend(old.chains.keys().filter(|n| !new.chains.contains_key(*n)).cloned().map(Op::DeleteChain));
    Transaction { ops }
}

fn same_rules(a: &Arc<Chain>, b: &Arc<Chain>) -> bool {
    Arc::ptr_eq(a, b) || a.rules == b.rules
}

fn push_some<T>(ops: &mut Vec<Op>, items: Vec<T>, op: impl FnOnce(Vec<T>) -> Op) {
    if !items.is_empty() {
        ops.push(op(items));
    }
}

#[cfg(test)]
mod tests {
    use super::super::expr::{R0, goto, load_saddr};
    use super::*;
    use proptest::prelude::*;

    fn ruleset() -> impl Strategy<Value = RuleSet> {
        let chains = proptest::collection::btree_map(0u8..6, 0u8..4, 0..6);
        let elements = proptest::collection::btree_map((0u8..3, 0u8..8), 0u8..3, 0..16);
        (chains, elements).prop_map(|(chains, elements)| {
            let mut out = RuleSet::default();
            for (name, rules) in chains {
                out.chain(&format!("c{name}"), (0..rules).map(|n| vec![load_saddr(R0), goto(&format!("r{n}"))]).collect());
            }
            for ((set, key), value) in elements {
                let name: Arc<str> = format!("s{set}").into();
                let spec = SetSpec { key: vec![Field::Ipv4], kind: SetKind::Map(vec![Field::Port]) };
                let set = out.sets.entry(name).or_insert_with(|| Set { spec, elements: BTreeMap::new() });
                set.elements.insert(vec![key], Data::Value(vec![value]));
            }
            out
        })
    }

    proptest! {
        #[test]
        fn applying_the_difference_of_two_models_to_the_first_gives_the_second(a in ruleset(), b in ruleset()) {
            let mut model = a.clone();
            model.apply(&diff(&a, &b)).expect("every step is one the kernel takes");
            prop_assert_eq!(&model, &b);
            prop_assert!(diff(&b, &b).ops.is_empty());
        }
    }
}
