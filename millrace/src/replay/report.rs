//! Prints what a replay would do, and what it did.

use block_builder::replay::{Amount, By, Job, Mode, OldBlock, PartitionPlan, PartitionState, State, Tenants};

use crate::times::shown;

/// Prints what a replay would do.
pub(super) fn print_plan(job: &Job, plans: &[PartitionPlan]) {
    let whose = match &job.tenants {
        Tenants::All => "all tenants".to_owned(),
        Tenants::These(names) => names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", "),
    };
    let what = match &job.mode {
        Mode::Verify => "compare the log with the blocks".to_owned(),
        Mode::Rebuild => "make blocks anew from the log and list them in place of the old ones".to_owned(),
        Mode::Send { target, as_tenant } => format!("send to {target} as tenant {as_tenant}"),
    };
    println!(
        "would {what}: {whose}{}",
        if job.selector.is_empty() { String::new() } else { format!(" {}", job.selector) }
    );
    let by = if job.window.by == By::AppendTime { "append time" } else { "entry time" };
    println!("window by {by}: {} to {}", shown(job.window.from), shown(job.window.to));
    if job.window.by == By::EntryTime {
        let search = job.window.append_time();
        let end =
            if search.end == model::TimestampNs::MAX { "the end of the log".to_owned() } else { shown(search.end) };
        println!("searched by append time: {} to {end}", shown(search.start));
    }
    let (mut records, mut entries, mut bytes) = (0, 0, 0);
    for plan in plans {
        let estimate = plan.estimate(job);
        println!(
            "partition {}: offsets {}, at most {} records; in {} blocks about {} entries, {} bytes of lines; at most {} records \
             not in blocks yet",
            plan.partition,
            plan.range,
            estimate.records_max,
            estimate.blocks,
            estimate.entries,
            estimate.line_bytes,
            estimate.unflushed_records_max
        );
        if job.mode == Mode::Rebuild && estimate.blocks_not_in_log > 0 {
            println!(
                "  {} of the blocks would be left as they are: the log no longer holds all of their ranges",
                estimate.blocks_not_in_log
            );
        }
        print_cut_off(plan.cut_off);
        records += estimate.records_max;
        entries += estimate.entries;
        bytes += estimate.line_bytes;
    }
    println!(
        "in all at most {records} records; in blocks about {entries} entries, {bytes} bytes of lines. Nothing was done"
    );
}

fn print_cut_off(cut_off: bool) {
    if cut_off {
        println!("  the log begins inside the window, or behind its begin: what was before, its retention has removed");
    }
}

/// Prints the result so far. Returns the exit code.
pub(super) fn print(state: &State) -> i32 {
    for partition in &state.partitions {
        print_partition(&state.job.mode, partition);
    }
    let Amount { records, entries, line_bytes } = state.read();
    let counts = format!("{records} records, {entries} entries, {line_bytes} bytes of lines");
    if !state.finished {
        println!("stopped before the end, after {counts}");
        return 130;
    }
    let waiting = state.not_in_blocks();
    let left: usize = state.partitions.iter().map(|partition| partition.left.len()).sum();
    match &state.job.mode {
        Mode::Verify => {
            let verdict = match state.differences() {
                0 => "the same".to_owned(),
                count => format!("DIFFERENT, in {count} places"),
            };
            println!(
                "log and blocks are {verdict}: {counts}, of which {} entries are not in blocks yet",
                waiting.entries
            );
            i32::from(state.differences() > 0)
        }
        Mode::Rebuild => {
            let made: usize = state.partitions.iter().map(|partition| partition.rebuilt.len()).sum();
            println!("{made} blocks were made anew and are listed now, {left} were left as they are: {counts}");
            i32::from(left > 0)
        }
        Mode::Send { target, as_tenant } => {
            println!("sent to {target} as tenant {as_tenant}, all acknowledged: {counts}");
            0
        }
    }
}

fn print_partition(mode: &Mode, partition: &PartitionState) {
    let Amount { records, entries, .. } = partition.read;
    let steps = match mode {
        Mode::Verify => format!("{} blocks compared, {} differences", partition.steps, partition.differences_count),
        Mode::Rebuild => format!("{} blocks made anew", partition.rebuilt.len()),
        Mode::Send { .. } => format!("{} batches", partition.steps),
    };
    println!(
        "partition {}: offsets {}: {records} records, {entries} entries; {steps}",
        partition.partition, partition.range
    );
    print_cut_off(partition.cut_off);
    if partition.undecodable > 0 {
        println!("  {} records could not be decoded; they are kept as they are, and not sent", partition.undecodable);
    }
    for not_compared in &partition.not_compared {
        println!("  not compared: offsets {}: {}", not_compared.range, not_compared.why);
    }
    for difference in &partition.differences {
        println!("  different: {difference}");
    }
    let more = partition.differences_count.saturating_sub(partition.differences.len() as u64);
    if more > 0 {
        println!("  and {more} more differences");
    }
    for made in &partition.rebuilt {
        let old = match &made.old_block {
            OldBlock::Same => "the old one held the same".to_owned(),
            OldBlock::Unreadable(why) => format!("the old one could not be read: {why}"),
            OldBlock::Different(count, _) => format!("the old one differed in {count} places"),
        };
        println!("  {}: {} rows, {} bytes; {old} ({})", made.new.key, made.new.rows, made.new.bytes, made.old);
        if let OldBlock::Different(_, differences) = &made.old_block {
            for difference in differences {
                println!("    {difference}");
            }
        }
    }
    for left in &partition.left {
        println!("  left as it is: {} {}: {}", left.key, left.range, left.why);
    }
}
