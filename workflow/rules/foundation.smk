rule foundation:
    input:
        data=plan.foundation_data,
    output:
        directory("results/{name}/foundation/{part}"),
    log:
        "results/{name}/logs/foundation/{part}.log",
    benchmark:
        "results/{name}/benchmarks/foundation/{part}.tsv"
    conda:
        "../../envs/cast.yaml"
    threads: RESOURCES.threads
    resources:
        mem_mb=RESOURCES.mem_mb,
        runtime=RESOURCES.runtime,
        gpu=RESOURCES.gpu,
    params:
        settings=plan.settings("foundation"),
        part=plan.part,
    shell:
        "cast foundation --settings {params.settings:q} --part {params.part} --data {input.data:q}"
        " --out {output:q} --threads {threads} 2>&1 | tee {log:q}"
