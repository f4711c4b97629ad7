rule tabulate:
    input:
        evaluations=plan.evaluations,
        paper_results=plan.paper_results,
    output:
        report(
            directory("results/{name}/tables"),
            patterns=["{table}.csv"],
            caption="../report/table.rst",
            category="Tables",
        ),
    log:
        "results/{name}/logs/tabulate.log",
    benchmark:
        "results/{name}/benchmarks/tabulate.tsv"
    conda:
        "../../envs/cast.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=plan.settings("tabulate"),
        metrics=plan.metrics,
    shell:
        "cast tabulate --settings {params.settings:q} --out {output:q} {params.metrics:q} 2>&1 | tee {log:q}"
