//! Pages for questions that are not about one type: coming from Kafka, async runtimes, shutting
//! down, full disks, the command line, backups, platforms, small durable values.

#[doc = include_str!("kafka.md")]
pub mod kafka {}

#[doc = include_str!("under_tokio.md")]
pub mod under_tokio {}

#[doc = include_str!("shutting_down.md")]
pub mod shutting_down {}

#[doc = include_str!("disk_full.md")]
pub mod disk_full {}

#[doc = include_str!("command_line.md")]
pub mod command_line {}

#[doc = include_str!("backup.md")]
pub mod backup {}

#[doc = include_str!("platforms.md")]
pub mod platforms {}

#[doc = include_str!("small_state.md")]
pub mod small_state {}

#[cfg(test)]
mod tests {
    /// Each row of the README's table has its program, under the same name and in the same order.
    #[test]
    fn every_row_of_the_table_for_users_of_kafka_is_a_program() {
        let (readme, page) = (include_str!("../../README.md"), include_str!("kafka.md"));
        let (_, table) = readme.split_once("## Coming from Kafka").unwrap();
        let rows = table.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
        let rows = rows.take_while(|line| line.starts_with('|')).map(|row| row.split(" | ").next().unwrap());
        let rows: Vec<_> = rows.map(|cell| cell.trim_start_matches("| ")).collect();
        let sections: Vec<_> = page.split("\n## ").skip(1).collect();
        let titles: Vec<_> = sections.iter().map(|section| section.lines().next().unwrap()).collect();
        assert_eq!(titles, rows);
        assert!(sections.iter().all(|section| section.contains("\n```\n")));
    }
}
