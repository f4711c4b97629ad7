rule tabulate:
    input:
        evaluations=plan.evaluations,
        paper_results=plan.paper_results,
    output:
        csv=report(
            "results/{name}/tables/{table}.csv",
            caption="../report/table.rst",
            category="Tables",
        ),
        others=expand(
            "results/{{name}}/tables/{{table}}.{suffix}",
            suffix=["md", "tex", "manifest.json"],
        ),
    log:
        "results/{name}/logs/tabulate/{table}.log",
    benchmark:
        "results/{name}/benchmarks/tabulate/{table}.tsv"
    wildcard_constraints:
        table=one_of(experiment.tables),
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
        "cast tabulate --settings {params.settings:q} --out {output.csv:q} {params.metrics:q} 2>&1 | tee {log:q}"
