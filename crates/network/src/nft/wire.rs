//! Models to netlink bytes, and the socket that carries them.

use super::expr::{Base, Cmp, Expr, FibKey, Field, Meta, Reg, Reject, Rule, SetRef, Verdict};
use super::ruleset::{Data, Hook, Kind, Op, SetKind, SetSpec, Transaction};
use crate::netlink::{ACK, APPEND, Attrs, CREATE, Error, Message, Result, Socket, read_str};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const DELCHAIN: u16 = SUBSYSTEM | 5;
const NEWRULE: u16 = SUBSYSTEM | 6;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const DELSET: u16 = SUBSYSTEM | 11;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;

const LIST_ELEM: u16 = 1;
const FLAG_ANONYMOUS: u32 = 0x1;
const FLAG_CONSTANT: u32 = 0x2;
const FLAG_MAP: u32 = 0x8;
const FLAG_TIMEOUT: u32 = 0x10;
const FLAG_EVAL: u32 = 0x20;
const DATA_VERDICT: u32 = 0xffff_ff00;
/// The kernel's bound for elements that clients of a service cause.
const DYNAMIC_SET_SIZE: u32 = 1 << 18;
const RANDOM_FULLY: u32 = 1 << 4;
/// Elements per message: keeps every nested list well under its 64-KiB bound.
const CHUNK: usize = 300;

/// A table of the IPv4 family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableName(pub &'static str);

/// The nf_tables socket of one network namespace.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
}

impl Nft {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// No netfilter netlink in this kernel.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::netfilter()? })
    }

    /// Changes an existing table in one atomic step.
    ///
    /// # Errors
    /// The kernel refused; nothing has changed then.
    pub fn apply(&mut self, table: TableName, transaction: &Transaction) -> Result<()> {
        if transaction.ops.is_empty() {
            return Ok(());
        }
        self.commit(table, Vec::new(), transaction)
    }

    /// Replaces a table, whatever it held, by what `transaction` builds, in one atomic step without a gap.
    ///
    /// # Errors
    /// The kernel refused; nothing has changed then.
    pub fn replace(&mut self, table: TableName, transaction: &Transaction) -> Result<()> {
        let start = vec![table_message(NEWTABLE, table), table_message(DELTABLE, table), table_message(NEWTABLE, table)];
        self.commit(table, start, transaction)
    }

    /// Creates the table by `transaction` unless it exists. Two processes that race end with one table.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn ensure(&mut self, table: TableName, transaction: &Transaction) -> Result<()> {
        if self.exists(table)? {
            return Ok(());
        }
        let mut create = table_message(NEWTABLE, table);
        create.set_exclusive();
        match self.commit(table, vec![create], transaction) {
            Err(e) if e.is_exists() => Ok(()),
            other => other,
        }
    }

    /// Removes a table with all it holds; one that does not exist is fine.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn delete(&mut self, table: TableName) -> Result<()> {
        let both = vec![table_message(NEWTABLE, table), table_message(DELTABLE, table)];
        self.commit(table, both, &Transaction::default())
    }

    /// Whether the table exists.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn exists(&mut self, table: TableName) -> Result<bool> {
        match self.socket.get(format!("look up nftables table {}", table.0), table_message(GETTABLE, table)) {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The elements of a set: (key, value) pairs; the value is empty in a plain set or a verdict map.
    ///
    /// # Errors
    /// The set does not exist, or the kernel could not be asked.
    pub fn elements(&mut self, table: TableName, set: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut message = nfgen(GETSETELEM, 0);
        message.attr_str(1, table.0).attr_str(2, set);
        let replies = self.socket.dump(format!("list elements of {set}"), message)?;
        let mut out = Vec::new();
        for reply in &replies {
            let list = Attrs(reply.attrs(4).find(3).unwrap_or(&[]));
            for (_, element) in list {
                let element = Attrs(element);
                let value = |kind| element.find(kind).and_then(|v| Attrs(v).find(1)).map(<[u8]>::to_vec);
                if let Some(key) = value(1) {
                    out.push((key, value(2).unwrap_or_default()));
                }
            }
        }
        Ok(out)
    }

    /// Names of all IPv4 tables.
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn tables(&mut self) -> Result<Vec<String>> {
        let replies = self.socket.dump("list nftables tables", nfgen(GETTABLE, 0))?;
        Ok(replies.iter().filter_map(|r| r.attrs(4).find(1).map(read_str)).collect())
    }

    fn commit(&mut self, table: TableName, start: Vec<Message>, transaction: &Transaction) -> Result<()> {
        let mut batch = vec![batch_message(BATCH_BEGIN)];
        batch.extend(start);
        let mut writer = Writer { table, out: batch, next_set: 1 };
        for op in &transaction.ops {
            writer.op(op);
        }
        let mut batch = writer.out;
        batch.push(batch_message(BATCH_END));
        let operations = batch.len() - 2;
        self.socket
            .batch(batch)
            .map_err(|(index, source)| Error::new(format!("nftables table {}: operation {index} of {operations}", table.0), source))
    }
}

fn nfgen(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags).fixed(&[libc::NFPROTO_IPV4 as u8, 0, 0, 0])
}

fn batch_message(kind: u16) -> Message {
    Message::new(kind, 0).fixed(&[0, 0, 0, 10])
}

fn table_message(kind: u16, table: TableName) -> Message {
    let flags = if kind == NEWTABLE { CREATE | ACK } else { ACK };
    let mut message = nfgen(kind, flags);
    message.attr_str(1, table.0);
    message
}

/// Turns steps into messages.
struct Writer {
    table: TableName,
    out: Vec<Message>,
    /// Anonymous sets are numbered within the transaction.
    next_set: u32,
}

impl Writer {
    fn op(&mut self, op: &Op) {
        match op {
            Op::AddSet(name, spec) => self.add_set(name, spec, None),
            Op::AddChain(name, base) => self.add_chain(name, *base),
            Op::DeleteElements(name, keys) => {
                let elements: Vec<_> = keys.iter().map(|key| (key.clone(), Data::None)).collect();
                self.elements(DELSETELEM, name, None, &elements);
            }
            Op::FlushChain(name) => self.named(DELRULE, 1, 2, name),
            Op::AddRules(name, chain) => chain.rules.iter().for_each(|rule| self.add_rule(name, rule)),
            Op::AddElements(name, elements) => self.elements(NEWSETELEM, name, None, elements),
            Op::DeleteSet(name) => self.named(DELSET, 1, 2, name),
            Op::DeleteChain(name) => self.named(DELCHAIN, 1, 3, name),
        }
    }

    fn named(&mut self, kind: u16, table_attr: u16, name_attr: u16, name: &str) {
        let mut message = nfgen(kind, 0);
        message.attr_str(table_attr, self.table.0).attr_str(name_attr, name);
        self.out.push(message);
    }

    fn add_chain(&mut self, name: &str, base: Option<(Kind, Hook, i32)>) {
        let mut message = nfgen(NEWCHAIN, CREATE);
        message.attr_str(1, self.table.0).attr_str(3, name);
        if let Some((kind, hook, priority)) = base {
            message.nest(4, |m| {
                m.attr_be32(1, hook as u32).attr_be32(2, priority.cast_unsigned());
            });
            message.attr_be32(5, libc::NF_ACCEPT.cast_unsigned());
            message.attr_str(
                7,
                match kind {
                    Kind::Filter => "filter",
                    Kind::Nat => "nat",
                },
            );
        }
        self.out.push(message);
    }

    fn add_set(&mut self, name: &str, spec: &SetSpec, id: Option<u32>) {
        let mut message = nfgen(NEWSET, CREATE);
        message.attr_str(1, self.table.0).attr_str(2, name);
        let (mut flags, data, timeout) = match &spec.kind {
            SetKind::Plain => (0, None, None),
            SetKind::Map(fields) => (FLAG_MAP, Some((type_id(fields), size(fields))), None),
            SetKind::VerdictMap => (FLAG_MAP, Some((DATA_VERDICT, 16)), None),
            SetKind::Dynamic(timeout) => (FLAG_TIMEOUT | FLAG_EVAL, None, Some(*timeout)),
        };
        if id.is_some() {
            flags |= FLAG_ANONYMOUS | FLAG_CONSTANT;
        }
        message.attr_be32(3, flags).attr_be32(4, type_id(&spec.key)).attr_be32(5, size(&spec.key));
        if let Some((data_type, data_len)) = data {
            message.attr_be32(6, data_type).attr_be32(7, data_len);
        }
        if let Some(timeout) = timeout {
            message.nest(9, |m| {
                m.attr_be32(1, DYNAMIC_SET_SIZE);
            });
            message.attr_be64(11, millis(timeout));
        }
        if spec.key == [Field::Integer] {
            message.attr(13, &HOST_ORDER_KEY);
        }
        message.attr_be32(10, id.unwrap_or_else(|| self.next_id()));
        self.out.push(message);
    }

    fn next_id(&mut self) -> u32 {
        self.next_set += 1;
        self.next_set
    }

    fn elements(&mut self, kind: u16, set: &str, id: Option<u32>, elements: &[(Vec<u8>, Data)]) {
        let flags = if kind == NEWSETELEM { CREATE } else { 0 };
        for chunk in elements.chunks(CHUNK) {
            let mut message = nfgen(kind, flags);
            message.attr_str(1, self.table.0).attr_str(2, set);
            if let Some(id) = id {
                message.attr_be32(4, id);
            }
            message.nest(3, |m| chunk.iter().for_each(|(key, data)| element(m, key, data)));
            self.out.push(message);
        }
    }

    fn add_rule(&mut self, chain: &str, rule: &Rule) {
        // Inline sets come first: the rule refers to them by their number in this transaction.
        let sets: Vec<Option<u32>> = rule.iter().map(|expr| self.inline_set(expr)).collect();
        let mut message = nfgen(NEWRULE, CREATE | APPEND);
        message.attr_str(1, self.table.0).attr_str(2, chain);
        message.nest(4, |m| {
            for (expr, set) in rule.iter().zip(sets) {
                m.nest(LIST_ELEM, |m| expression(m, expr, set));
            }
        });
        self.out.push(message);
    }

    fn inline_set(&mut self, expr: &Expr) -> Option<u32> {
        let (Expr::Lookup { set: SetRef::Inline(spec, elements), .. } | Expr::VerdictMap { set: SetRef::Inline(spec, elements), .. }) =
            expr
        else {
            return None;
        };
        let id = self.next_id();
        self.add_set(INLINE_NAME, spec, Some(id));
        self.elements(NEWSETELEM, INLINE_NAME, Some(id), elements);
        Some(id)
    }
}

/// A note for the `nft` tool, which would else show numbers in network byte order.
const HOST_ORDER_KEY: [u8; 6] = [0, 4, 1, 0, 0, 0];
const INLINE_NAME: &str = "__set%d";

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn size(fields: &[Field]) -> u32 {
    4 * u32::try_from(fields.len()).expect("a key has a handful of parts")
}

/// The type number the `nft` tool shows a key by: six bits per part.
fn type_id(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |id, field| {
        id << 6
            | match field {
                Field::Integer => 4,
                Field::Ipv4 => 7,
                Field::Proto => 12,
                Field::Port => 13,
            }
    })
}

fn element(m: &mut Message, key: &[u8], data: &Data) {
    m.nest(LIST_ELEM, |m| {
        m.nest(1, |m| {
            m.attr(1, key);
        });
        match data {
            Data::None => {}
            Data::Value(value) => {
                m.nest(2, |m| {
                    m.attr(1, value);
                });
            }
            Data::Verdict(verdict) => {
                m.nest(2, |m| verdict_data(m, verdict));
            }
        }
    });
}

fn verdict_data(m: &mut Message, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (libc::NF_ACCEPT, None),
        Verdict::Drop => (libc::NF_DROP, None),
        Verdict::Return => (libc::NFT_RETURN, None),
        Verdict::Jump(chain) => (libc::NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (libc::NFT_GOTO, Some(chain)),
    };
    m.nest(2, |m| {
        m.attr_be32(1, code.cast_unsigned());
        if let Some(chain) = chain {
            m.attr_str(2, chain);
        }
    });
}

fn expression(m: &mut Message, expr: &Expr, inline: Option<u32>) {
    let mut named = |name: &str, fill: &dyn Fn(&mut Message)| {
        m.attr_str(1, name).nest(2, |m| fill(m));
    };
    let lookup = |m: &mut Message, set: &SetRef, sreg: Reg| {
        m.attr_str(
            1,
            match set {
                SetRef::Named(name) => name,
                SetRef::Inline(..) => INLINE_NAME,
            },
        );
        m.attr_be32(2, sreg.0);
        if let Some(id) = inline {
            m.attr_be32(4, id);
        }
    };
    match expr {
        Expr::Payload { base, offset, len, dreg } => named("payload", &|m| {
            let base = match base {
                Base::Network => 1,
                Base::Transport => 2,
            };
            m.attr_be32(1, dreg.0).attr_be32(2, base).attr_be32(3, *offset).attr_be32(4, *len);
        }),
        Expr::Meta { key, dreg } => named("meta", &|m| {
            m.attr_be32(2, meta_key(*key)).attr_be32(1, dreg.0);
        }),
        Expr::MetaSet { key, sreg } => named("meta", &|m| {
            m.attr_be32(2, meta_key(*key)).attr_be32(3, sreg.0);
        }),
        Expr::CtState { dreg } => named("ct", &|m| {
            m.attr_be32(2, 0).attr_be32(1, dreg.0);
        }),
        Expr::CtStatus { dreg } => named("ct", &|m| {
            m.attr_be32(2, 2).attr_be32(1, dreg.0);
        }),
        Expr::FibType { key, dreg } => named("fib", &|m| {
            let flags = match key {
                FibKey::Source => 1,
                FibKey::Destination => 2,
            };
            m.attr_be32(3, flags).attr_be32(2, 3).attr_be32(1, dreg.0);
        }),
        Expr::Cmp { op, sreg, value } => named("cmp", &|m| {
            let op = match op {
                Cmp::Eq => 0,
                Cmp::Ne => 1,
            };
            m.attr_be32(1, sreg.0).attr_be32(2, op).nest(3, |m| {
                m.attr(1, value);
            });
        }),
        Expr::Bitwise { sreg, dreg, mask, xor } => named("bitwise", &|m| {
            m.attr_be32(1, sreg.0).attr_be32(2, dreg.0).attr_be32(3, mask.len() as u32);
            m.nest(4, |m| {
                m.attr(1, mask);
            });
            m.nest(5, |m| {
                m.attr(1, xor);
            });
        }),
        Expr::Immediate { dreg, value } => named("immediate", &|m| {
            m.attr_be32(1, dreg.0).nest(2, |m| {
                m.attr(1, value);
            });
        }),
        Expr::Verdict(verdict) => named("immediate", &|m| {
            m.attr_be32(1, 0).nest(2, |m| verdict_data(m, verdict));
        }),
        Expr::Lookup { set, sreg, dreg } => named("lookup", &|m| {
            lookup(m, set, *sreg);
            if let Some(dreg) = dreg {
                m.attr_be32(3, dreg.0);
            }
        }),
        Expr::VerdictMap { set, sreg } => named("lookup", &|m| {
            lookup(m, set, *sreg);
            m.attr_be32(3, 0);
        }),
        Expr::Update { set, key, timeout } => named("dynset", &|m| {
            m.attr_str(1, set).attr_be32(3, 1).attr_be32(4, key.0).attr_be64(6, millis(*timeout));
        }),
        Expr::Random { dreg, modulus } => named("numgen", &|m| {
            m.attr_be32(1, dreg.0).attr_be32(2, *modulus).attr_be32(3, 1).attr_be32(4, 0);
        }),
        Expr::Dnat { addr, port } => named("nat", &|m| {
            m.attr_be32(1, 1).attr_be32(2, libc::NFPROTO_IPV4.cast_unsigned());
            m.attr_be32(3, addr.0).attr_be32(5, port.0);
        }),
        Expr::Masquerade => named("masq", &|m| {
            m.attr_be32(1, RANDOM_FULLY);
        }),
        Expr::Reject(kind) => named("reject", &|m| {
            let (kind, code) = match kind {
                Reject::PortUnreachable => (0, 3),
                Reject::TcpReset => (1, 0),
            };
            m.attr_be32(1, kind).attr(2, &[code]);
        }),
    }
}

fn meta_key(key: Meta) -> u32 {
    match key {
        Meta::Mark => 3,
        Meta::InInterface => 4,
        Meta::OutInterface => 5,
        Meta::L4Proto => 16,
    }
}
