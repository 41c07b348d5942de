//! `profiles[].plugins`: which plugins are enabled and disabled, per extension point or for all (`multiPoint`).

use super::Invalid;
use crate::plugins::Plugin;
use crate::profile::Profile;
use serde::Deserialize;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Plugins {
    pre_enqueue: Set,
    queue_sort: Set,
    pre_filter: Set,
    filter: Set,
    post_filter: Set,
    pre_score: Set,
    score: Set,
    reserve: Set,
    permit: Set,
    pre_bind: Set,
    bind: Set,
    post_bind: Set,
    multi_point: Set,
    placement_generate: Set,
    placement_score: Set,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Set {
    enabled: Vec<Entry>,
    disabled: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    weight: i64,
}

impl Set {
    /// Takes plugins away and adds others: `disabled` first, `*` for all.
    fn apply(&self, path: &str, mut set: impl FnMut(Plugin, Option<i64>)) -> Result<(), Invalid> {
        for (at, entry) in self.disabled.iter().enumerate() {
            match &*entry.name {
                "*" => Plugin::ALL.into_iter().for_each(|p| set(p, None)),
                name => set(known(&format!("{path}.disabled[{at}].name"), name)?, None),
            }
        }
        for (at, entry) in self.enabled.iter().enumerate() {
            let plugin = known(&format!("{path}.enabled[{at}].name"), &entry.name)?;
            if !(0..=i64::from(i32::MAX) / 100).contains(&entry.weight) {
                return Err(Invalid::value(format!("{path}.enabled[{at}].weight"), entry.weight, "out of range"));
            }
            set(plugin, Some(if entry.weight == 0 { 1 } else { entry.weight }));
        }
        Ok(())
    }
}

fn known(path: &str, name: &str) -> Result<Plugin, Invalid> {
    Plugin::named(name).ok_or_else(|| Invalid::value(path, name, format!("plugin \"{name}\" does not exist")))
}

impl Plugins {
    pub(super) fn apply(&self, path: &str, profile: &mut Profile) -> Result<(), Invalid> {
        let scores = |plugin: Plugin| Plugin::DEFAULT_WEIGHTS.iter().any(|(p, _)| *p == plugin);
        self.multi_point.apply(&format!("{path}.multiPoint"), |plugin, enabled| {
            toggle(&mut profile.filters, plugin, enabled.is_some());
            toggle(&mut profile.others, plugin, enabled.is_some());
            profile.weights[plugin as usize] = enabled.filter(|_| scores(plugin)).unwrap_or(0);
        })?;
        self.filter.apply(&format!("{path}.filter"), |plugin, enabled| toggle(&mut profile.filters, plugin, enabled.is_some()))?;
        self.score.apply(&format!("{path}.score"), |plugin, enabled| {
            profile.weights[plugin as usize] = enabled.filter(|_| scores(plugin)).unwrap_or(0);
        })?;
        // The plugins that have one other extension point of their own.
        for (name, set, plugin) in [
            ("preEnqueue", &self.pre_enqueue, Plugin::SchedulingGates),
            ("queueSort", &self.queue_sort, Plugin::PrioritySort),
            ("postFilter", &self.post_filter, Plugin::DefaultPreemption),
            ("bind", &self.bind, Plugin::DefaultBinder),
        ] {
            set.apply(&format!("{path}.{name}"), |p, enabled| {
                if p == plugin {
                    toggle(&mut profile.others, p, enabled.is_some());
                }
            })?;
        }
        // Those whose steps belong together: a plugin that filters is also prepared, and reserves what it filtered by.
        for (name, set) in [
            ("preFilter", &self.pre_filter),
            ("preScore", &self.pre_score),
            ("reserve", &self.reserve),
            ("permit", &self.permit),
            ("preBind", &self.pre_bind),
            ("postBind", &self.post_bind),
            ("placementGenerate", &self.placement_generate),
            ("placementScore", &self.placement_score),
        ] {
            set.apply(&format!("{path}.{name}"), |_, _| {})?;
        }
        for (plugin, point) in [(Plugin::PrioritySort, "queue sort"), (Plugin::DefaultBinder, "bind")] {
            if !profile.has(plugin) {
                return Err(Invalid::value(path, &*profile.name, format!("at least one {point} plugin is required")));
            }
        }
        Ok(())
    }
}

fn toggle(bits: &mut u32, plugin: Plugin, on: bool) {
    *bits = if on { *bits | plugin.bit() } else { *bits & !plugin.bit() };
}
