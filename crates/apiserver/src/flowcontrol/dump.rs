//! `/debug/api_priority_and_fairness/`: levels, queues and waiting requests as tables for people.

use super::FlowControl;
use jiff::Timestamp;

/// Columns padded to their widest cell.
fn table(rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(|at| rows.iter().map(|r| r[at].len()).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(at, cell)| match at + 1 == row.len() {
            true => cell.clone(),
            false => format!("{:width$} ", format!("{cell},"), width = widths[at] + 1),
        });
        cells.collect::<String>() + "\n"
    };
    rows.iter().map(line).collect()
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|c| (*c).to_owned()).collect()
}

impl FlowControl {
    /// The dump of a name; `None` when there is none.
    pub(crate) fn dump(&self, name: &str) -> Option<String> {
        match name {
            "dump_priority_levels" => Some(self.levels()),
            "dump_queues" => Some(self.queues()),
            "dump_requests" => Some(self.requests()),
            _ => None,
        }
    }

    fn levels(&self) -> String {
        let plan = self.plan.load_full();
        let mut rows = vec![row(&[
            "PriorityLevelName",
            "ActiveQueues",
            "IsIdle",
            "IsQuiescing",
            "WaitingRequests",
            "ExecutingRequests",
            "DispatchedRequests",
            "RejectedRequests",
            "TimedoutRequests",
            "CancelledRequests",
        ])];
        for level in plan.levels.values() {
            let (executing, _, waiting) = level.current();
            let mut active = 0;
            level.each_queue(|_, waiting, executing, _, _| active += usize::from(waiting + executing > 0));
            let schemas = plan.schemas.iter().filter(|s| s.level.name == level.name);
            let (dispatched, rejected, late) = schemas.fold((0, 0, 0), |(d, r, l), s| {
                let (refused, late) = s.counts.rejected();
                (d + s.counts.dispatched(), r + refused, l + late)
            });
            let idle = (executing + waiting == 0).to_string();
            let numbers = [active as u64, u64::from(waiting), u64::from(executing), dispatched, rejected, late].map(|n| n.to_string());
            let [active, waiting, executing, dispatched, rejected, late] = numbers;
            rows.push(vec![level.name.clone(), active, idle, "false".into(), waiting, executing, dispatched, rejected, late, "0".into()]);
        }
        table(&rows)
    }

    fn queues(&self) -> String {
        let mut rows = vec![row(&["PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR"])];
        for level in self.plan.load().levels.values() {
            level.each_queue(|at, waiting, executing, seats, start| {
                let numbers = [at, waiting, executing, seats as usize].map(|n| n.to_string());
                let [at, waiting, executing, seats] = numbers;
                rows.push(vec![level.name.clone(), at, waiting, executing, seats, format!("{start:.8}ss")]);
            });
        }
        table(&rows)
    }

    fn requests(&self) -> String {
        let mut rows = vec![row(&[
            "PriorityLevelName",
            "FlowSchemaName",
            "QueueIndex",
            "RequestIndexInQueue",
            "FlowDistingsher",
            "ArriveTime",
            "InitialSeats",
            "FinalSeats",
            "AdditionalLatency",
        ])];
        let now = Timestamp::now();
        for level in self.plan.load().levels.values() {
            level.each_waiter(|queue, place, schema, flow, since, width| {
                let arrived = jiff::SignedDuration::try_from(since.elapsed()).map_or(now, |ago| now - ago);
                let (during, after, linger) = width.parts();
                rows.push(vec![
                    level.name.clone(),
                    schema.to_owned(),
                    queue.to_string(),
                    place.to_string(),
                    flow.to_owned(),
                    arrived.to_string(),
                    during.to_string(),
                    after.to_string(),
                    format!("{linger:?}"),
                ]);
            });
        }
        table(&rows)
    }
}
